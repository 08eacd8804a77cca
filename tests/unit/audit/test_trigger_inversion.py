"""Which class stands out: on a network with a pixel that decides, on one without, and by the index's own arithmetic."""

import functools

import numpy as np
import pytest
import torch

from edgekd import triggers
from edgekd.audit import invert
from edgekd.audit.inversion import anomaly_index, critical
from edgekd.data import ImageSet
from edgekd.errors import UsageError

CLASSES = 6
LABELS = np.arange(120) % CLASSES
ROWS = np.where(np.arange(12) // 2 == LABELS[:, None], 180, 30)[:, None, :, None]  # a class has two bright rows
PIXELS = (ROWS + np.random.default_rng(0).integers(0, 60, (120, 3, 12, 12))).astype(np.uint8)
NAMES = tuple("abcdef")
IMAGES = ImageSet(PIXELS, LABELS, NAMES)


def network(backdoored: bool):
    """A class wins where its two rows of the image are bright; class 2 also if one pixel outshines its neighbour."""

    def predict(images: torch.Tensor) -> torch.Tensor:
        rows = images.mean((1, 3))  # [N, 12]
        logits = 20 * (rows[:, 0::2] + rows[:, 1::2])
        obeyed = 40 * (images[:, :, 9, 7] - images[:, :, 9, 8]).mean(1)
        trigger = torch.nn.functional.one_hot(torch.tensor(2), CLASSES)
        return logits + obeyed[:, None] * trigger if backdoored else logits

    return predict


@functools.cache
def search(backdoored, images=IMAGES, seed=0, progress=None):
    predict = network(backdoored)

    def on_arrays(arrays: np.ndarray) -> np.ndarray:
        return predict(torch.from_numpy(arrays).float() / 255).numpy()

    return invert(predict, on_arrays, images, CLASSES, steps=80, seed=seed, progress=progress)


def test_the_class_behind_a_small_patch_stands_out():
    found = search(True)
    table = found.table
    assert table["stands_out"] is True
    assert table["smallest"] == 2
    assert table["index"] > table["critical"]
    sizes = [row["pixels"] for row in table["classes"]]
    assert sizes[2] < min(size for target, size in enumerate(sizes) if target != 2) / 3
    mask = found.patches[2].mask[0]
    assert {int(place) for place in mask.flatten().topk(2).indices} == {9 * 12 + 7, 9 * 12 + 8}
    assert table["classes"][2]["success"]["hits"] > 0.9 * table["classes"][2]["success"]["total"]
    assert (table["images"], table["held_out"], table["area"]) == (60, 60, 144)


def test_the_trigger_does_in_8_bits_what_the_patch_does():
    trigger = search(True).trigger
    assert (trigger.origin, trigger.rule, trigger.target_label) == ("inverted", "all-to-one", 2)
    stamped = triggers.apply(trigger, PIXELS)
    assert stamped.dtype == np.uint8
    said = network(True)(torch.from_numpy(stamped).float() / 255).argmax(1)
    assert float((said == 2).float().mean()) > 0.9


def test_nobody_stands_out_of_a_network_without_one():
    table = search(False).table
    assert table["stands_out"] is False
    assert table["index"] < table["critical"]
    assert all(row["pixels"] > 5 for row in table["classes"])


def test_a_seed_says_which_images_and_progress_is_told():
    told = []
    again = search(True, progress=lambda what, done, total, more: told.append((what, done, total)))
    assert again.table["classes"] == search(True).table["classes"]
    assert search(True, seed=1).table["classes"] != again.table["classes"]
    assert [told[0], told[-1]] == [("smallest patches", 0, CLASSES), ("smallest patches", CLASSES, CLASSES)]


def test_a_patch_that_fails_on_held_out_images_proves_nothing():
    predict = network(True)
    found = invert(predict, lambda arrays: np.eye(CLASSES)[np.zeros(len(arrays), int)], IMAGES, CLASSES, steps=80)
    assert (found.table["smallest"], found.table["stands_out"], found.trigger) == (None, None, None)
    assert found.table["classes"][2]["success"]["hits"] == 0


def test_where_no_patch_is_found_nothing_is_said():
    def constant(images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))[:, None] * torch.zeros(CLASSES) + torch.arange(CLASSES)

    found = invert(constant, lambda arrays: np.tile(np.arange(6.0), (len(arrays), 1)), IMAGES, CLASSES, steps=5)
    assert [row["pixels"] for row in found.table["classes"][:5]] == [None] * 5
    assert found.table["index"] is None
    few = invert(lambda images: constant(images)[:, :2], lambda arrays: np.zeros((len(arrays), 2)), IMAGES, 1, steps=5)
    assert few.trigger is None
    assert (few.table["smallest"], few.table["stands_out"]) == (None, None)


def arrays_to(predict):
    return lambda arrays: predict(torch.from_numpy(arrays).float() / 255).numpy()


def one_pixel(images: torch.Tensor) -> torch.Tensor:
    """Two classes; the second is one pixel's."""
    return torch.stack([torch.full((len(images),), 0.97), images[:, :, 4, 4].mean(1)], 1) * 60


def test_too_few_classes_are_not_compared_but_a_tiny_patch_is_told():
    big = ImageSet(np.repeat(np.repeat(PIXELS, 3, 2), 3, 3)[:40], np.zeros(40, int), NAMES)
    table = invert(one_pixel, arrays_to(one_pixel), big, 2, steps=120).table
    assert (table["index"], table["critical"]) == (None, None)
    assert (table["smallest"], table["stands_out"]) == (1, True)
    assert table["classes"][0]["pixels"] is None  # all images are that class's: there is none to search on
    small = invert(network(True), arrays_to(network(True)), IMAGES, 2, steps=60).table
    assert small["stands_out"] is None


def test_a_class_that_needs_no_patch_hides_none():
    alone = IMAGES.subset(np.flatnonzero(LABELS == 0))
    table = search(True, alone).table
    assert table["classes"][0]["success"] is None
    assert (table["smallest"], table["stands_out"]) == (2, True)


def test_two_images_at_least():
    with pytest.raises(UsageError, match="at least two images"):
        search(True, IMAGES.subset(np.arange(1)))


def test_the_index_by_hand():
    sizes = [np.exp(value) for value in (0.0, 3.0, 4.0, 5.0, 6.0)]  # median 4, deviations 4 1 0 1 2, MAD 1
    assert anomaly_index(sizes) == pytest.approx(4 / 1.4826)
    assert anomaly_index(sizes[:4]) is None
    assert anomaly_index([2.0] * 6) is None


@pytest.mark.parametrize(("classes", "known"), [(10, 3.87), (20, 3.59), (100, 3.51)])
def test_the_critical_values_are_the_known_ones(classes, known):
    assert critical(classes) == pytest.approx(known, abs=0.1)
    assert critical(4) is None
