"""ImageSet and splits."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekd import data
from edgekd.data import ImageSet
from edgekd.data.streams import below, shuffled, stream
from edgekd.errors import UsageError


def numbered(labels: np.ndarray, classes: int) -> ImageSet:
    """Images that carry their own number, so that they can be told apart."""
    count = np.arange(len(labels), dtype=np.uint32)
    pixels = count.view(np.uint8).reshape(-1, 1, 2, 2)
    return ImageSet(pixels, labels.astype(np.int64), tuple(map(str, range(classes))))


def numbers(images: ImageSet) -> list[int]:
    return images.images.reshape(-1, 4).copy().view(np.uint32).reshape(-1).tolist()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=6), st.integers(0, 5))
@example([3, 3, 41], 0)  # two small classes take an image each of a part of four
def test_splits_are_disjoint_exhaustive_stratified_and_seeded(sizes: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if len(labels) < 10:
        return
    images = numbered(labels, len(sizes))
    parts = data.split(images, seed)
    assert sorted(number for part in parts.values() for number in numbers(part)) == list(range(len(labels)))
    for name, share in {"train": 0.8, "validation": 0.1, "test": 0.1}.items():
        assert abs(len(parts[name]) - share * len(labels)) <= 1
        counts = np.bincount(parts[name].labels, minlength=len(sizes))
        assert (np.abs(counts - share * np.array(sizes)) <= len(sizes) + 1).all()
    again = data.split(images, seed)
    assert all(numbers(parts[name]) == numbers(again[name]) for name in parts)


def test_balanced_classes_split_exactly() -> None:
    images = numbered(np.arange(500) % 10, 10)
    parts = data.split(images, 0)
    assert np.bincount(parts["train"].labels).tolist() == [40] * 10
    assert np.bincount(parts["validation"].labels).tolist() == [5] * 10
    assert numbers(data.split(images, 1)["test"]) != numbers(parts["test"])
    halves = data.split(images, 0, {"train": 0.5, "rest": 0.5})
    assert [len(part) for part in halves.values()] == [250, 250]


def test_every_prefix_of_the_balanced_order_is_balanced() -> None:
    labels = np.array([0] * 100 + [1] * 50)
    order = data.balanced_order(labels, 0)
    for length in (3, 30, 99):
        assert abs((labels[order[:length]] == 0).sum() - 2 * length / 3) <= 1


def test_too_few_images_and_wrong_fractions() -> None:
    with pytest.raises(UsageError, match="too few"):
        data.split(numbered(np.array([0, 1, 0]), 2), 0)
    for fractions in ({"train": 0.5}, {"train": 1.5, "test": -0.5}):
        with pytest.raises(UsageError, match="sum to 1"):
            data.split(numbered(np.arange(20) % 2, 2), 0, fractions)


def test_streams_depend_on_seed_and_name_alone() -> None:
    assert stream(0, "a").random() == stream(0, "a").random()
    assert (
        len({stream(0, "a").random(), stream(1, "a").random(), stream(0, "b").random(), stream(0, "a", 1).random()})
        == 4
    )
    # fixed for good: a change of these would change every split and every training order
    assert shuffled(8, 0, "order", 0).tolist() == [3, 2, 6, 1, 0, 4, 5, 7]
    assert below(9, 6, 0, "shift", 0, 0).tolist() == [0, 5, 6, 0, 3, 6]
    assert sorted(shuffled(100, 3, "x")) == list(range(100))
    assert set(below(3, 300, 0, "y")) == {0, 1, 2}


def test_hash_covers_pixels_labels_and_shape() -> None:
    images = numbered(np.arange(4) % 2, 2)
    assert images.sha256 == numbered(np.arange(4) % 2, 2).sha256
    assert images.sha256 != images.with_labels(np.array([0, 0, 1, 1])).sha256
    reshaped = ImageSet(images.images.reshape(4, 1, 4, 1), images.labels, images.class_names)
    assert reshaped.sha256 != images.sha256
    expected = hashlib.sha256(b"(4, 1, 2, 2)" + images.images.tobytes() + images.labels.tobytes()).hexdigest()
    assert images.sha256 == expected


def test_subset_keeps_order_and_names() -> None:
    part = numbered(np.arange(6) % 3, 3).subset([4, 1])
    assert numbers(part) == [4, 1]
    assert part.labels.tolist() == [1, 1]
    assert part.num_classes == 3
    assert [part.number(0), part.subset([-1]).number(0), part.file(0)] == [4, 1, ""]


def test_a_part_knows_the_places_of_its_images_and_hashes_without_them() -> None:
    images = numbered(np.arange(60) % 3, 3)
    for part in data.split(images, 1).values():
        assert [part.number(i) for i in range(len(part))] == numbers(part)
    moved = images.subset([0, 2]).sha256
    assert moved == ImageSet(images.images[[0, 2]], images.labels[[0, 2]], images.class_names, "elsewhere").sha256


@pytest.mark.parametrize(
    ("images", "labels", "word"),
    [
        (np.zeros((2, 1, 2, 2), np.float32), np.zeros(2, np.int64), "uint8"),
        (np.zeros((2, 2, 2, 2), np.uint8), np.zeros(2, np.int64), "1 or 3 channels"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, np.int32), "int64"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.zeros(3, np.int64), "lengths differ"),
        (np.zeros((2, 1, 2, 2), np.uint8), np.array([0, 2]), "out of range"),
    ],
)
def test_image_set_refuses_what_it_cannot_hold(images: np.ndarray, labels: np.ndarray, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        ImageSet(images, labels, ("a", "b"), "here")


def test_unknown_attribute_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'batchs'"):
        data.batchs  # noqa: B018
