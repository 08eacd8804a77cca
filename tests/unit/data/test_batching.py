"""Batches: one gather per batch equals padding, cropping and flipping each image by hand."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.data import Batches, ImageSet
from edgekd.errors import UsageError


def coloured(count: int, shape: tuple[int, int, int]) -> ImageSet:
    random = np.random.RandomState(5)
    images = random.randint(0, 256, (count, *shape), dtype=np.uint8)
    return ImageSet(images, np.arange(count, dtype=np.int64) % 4, ("a", "b", "c", "d"))


def crops_by_hand(image: np.ndarray, pad: tuple[int, int]) -> list[bytes]:
    """Every crop of the reflected image [C, H, W] and its mirror, as bytes."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (pad[0],) * 2, (pad[1],) * 2), mode="reflect")
    found = []
    for top in range(2 * pad[0] + 1):
        for left in range(2 * pad[1] + 1):
            crop = padded[:, top : top + height, left : left + width]
            found += [crop.tobytes(), crop[:, :, ::-1].tobytes()]
    return found


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 24)])
def test_every_image_is_a_crop_of_itself(shape: tuple[int, int, int]) -> None:
    images = coloured(40, shape)
    batches = Batches(images, 16)
    seen, used = [], set()
    for batch in batches.epoch(0):
        assert batch.images.dtype == torch.float32
        assert batch.images.shape == (16, *shape)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert (batch.labels.numpy() == images.labels[batch.index]).all()
        pixels = (batch.images * 255).round().to(torch.uint8).contiguous().numpy()
        for index, crop in zip(batch.index.tolist(), pixels, strict=True):
            options = crops_by_hand(images.images[index], (shape[1] // 8, shape[2] // 8))
            used.add(options.index(crop.tobytes()))
            seen.append(index)
    assert len(seen) == len(set(seen)) == 32 == batches.steps * 16
    assert len(used) > 20


def test_without_augmentation_pixels_are_the_images() -> None:
    images = coloured(20, (3, 9, 7))
    for batch in Batches(images, 8, augment="none").epoch(3):
        assert torch.equal(batch.images, torch.from_numpy(images.images[batch.index]).float() / 255)


@pytest.mark.parametrize("augment", ["crop-flip", "none"])
def test_once_is_every_image_as_it_is_in_order(augment: Any) -> None:
    images = coloured(20, (3, 16, 8))
    found = list(Batches(images, 8, augment=augment).once())
    assert [len(batch.labels) for batch in found] == [8, 8, 4]
    assert torch.cat([batch.index for batch in found]).tolist() == list(range(20))
    assert torch.equal(torch.cat([batch.images for batch in found]), torch.from_numpy(images.images).float() / 255)
    assert torch.cat([batch.labels for batch in found]).tolist() == images.labels.tolist()


@pytest.mark.parametrize(("augment", "odd"), [("flip", True), ("crop", False)])
def test_flip_and_crop_alone(augment: Any, odd: bool) -> None:
    images = coloured(64, (1, 16, 16))
    (batch,) = Batches(images, 64, augment=augment).epoch(0)
    used = set()
    for index, image in zip(batch.index.tolist(), batch.images, strict=True):
        crop = (image * 255).round().to(torch.uint8).numpy()
        used.add(crops_by_hand(images.images[index], (2, 2)).index(crop.tobytes()))
    assert {place % 2 for place in used} == ({0, 1} if odd else {0})
    assert len(used) == 2 if odd else len(used) > 15


def test_order_and_augmentation_depend_on_seed_and_epoch_only() -> None:
    images = coloured(50, (3, 8, 8))
    batches = Batches(images, 16, seed=1)
    first = [batch.images.clone() for batch in batches.epoch(4)]
    list(batches.epoch(5))
    again = [batch.images for batch in Batches(images, 16, seed=1).epoch(4)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], next(batches.epoch(5)).images)
    assert not torch.equal(first[0], next(Batches(images, 16, seed=2).epoch(4)).images)


def test_last_batch_and_small_sets() -> None:
    images = coloured(50, (1, 8, 8))
    assert Batches(images, 16).steps == 3
    kept = Batches(images, 16, drop_last=False)
    assert [len(batch.labels) for batch in kept.epoch(0)] == [16, 16, 16, 2]
    assert kept.steps == 4
    assert sorted(torch.cat([batch.index for batch in kept.epoch(0)]).tolist()) == list(range(50))
    assert [len(batch.labels) for batch in Batches(images, 128).epoch(0)] == [50]
    assert Batches(images, 25, drop_last=False).steps == 2


def test_labels_can_be_replaced() -> None:
    images = coloured(20, (1, 8, 8)).with_labels(np.full(20, 3))
    (batch,) = Batches(images, 20).epoch(0)
    assert (batch.labels == 3).all()


def test_wrong_arguments() -> None:
    images = coloured(8, (1, 8, 8))
    with pytest.raises(UsageError, match="no augmentation 'mixup'"):
        Batches(images, 4, augment="mixup")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Batches of 0"):
        Batches(images, 0)
    with pytest.raises(UsageError, match="of 0 images"):
        Batches(images.subset([]), 4)


@pytest.mark.slow
def test_a_batch_of_128_costs_less_than_three_milliseconds() -> None:
    torch.set_num_threads(1)
    batches = Batches(coloured(2000, (3, 32, 32)), 128)
    seconds = []
    for epoch in range(8):
        iterator = batches.epoch(epoch)
        next(iterator)
        started = time.perf_counter()
        for _ in iterator:
            pass
        seconds.append((time.perf_counter() - started) / (batches.steps - 1))
    assert min(seconds) < 3e-3
