"""Training batches: uint8 pixels stay on the device, each batch is cropped and flipped by one gather."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch

from edgekd.data.images import ImageSet
from edgekd.data.streams import below, shuffled
from edgekd.errors import UsageError

Augment = Literal["crop-flip", "crop", "flip", "none"]
AUGMENTATIONS = ("crop-flip", "crop", "flip", "none")


class Batch(NamedTuple):
    """images float32 [B, C, H, W] in [0, 1], channels_last; labels int64 [B]; index int64 [B] into the ImageSet."""

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a batch


class Batches:
    """Shuffled, augmented batches of ``images`` on ``device``; order and augmentation depend on (seed, epoch) only.

    "crop" shifts each image by up to an eighth of its side (4 pixels at 32, 28 at 224) and fills by reflection, as a
    random crop of the padded image does; "flip" mirrors half of them. ``drop_last`` leaves out the last, smaller batch.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        seed: int = 0,
        augment: Augment = "crop-flip",
        device: str | torch.device = "cpu",
        drop_last: bool = True,
    ) -> None:
        if augment not in AUGMENTATIONS:
            raise UsageError(f"There is no augmentation {augment!r}; choose one of {', '.join(AUGMENTATIONS)}.")
        if batch_size < 1 or len(images) == 0:
            raise UsageError(f"Batches of {batch_size} cannot be made of {len(images)} images.")
        self.images = images
        self.batch_size = min(batch_size, len(images))
        self.seed = seed
        self.augment = augment
        self.device = torch.device(device)
        full, rest = divmod(len(images), self.batch_size)
        self.steps = full if drop_last or not rest else full + 1
        channels, height, width = images.shape
        # pixels as rows of one table [N * H * W, C]: a batch is one index_select, and comes out channels_last
        self._pixels = torch.from_numpy(images.images.transpose(0, 2, 3, 1).reshape(-1, channels)).to(self.device)
        self.labels = torch.from_numpy(images.labels).to(self.device)
        crop, flip = "crop" in augment, "flip" in augment
        self._shift = (height // 8, width // 8) if crop else (0, 0)
        self._flip = flip
        self._rows = _reflected(height, self._shift[0]).to(self.device)
        self._columns = _reflected(width, self._shift[1]).to(self.device)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, always the same for the same (seed, epoch)."""
        count = self.steps * self.batch_size
        plan = [shuffled(len(self.images), self.seed, "order", epoch)[:count]]
        for axis, shift in enumerate(self._shift):
            plan.append(below(2 * shift + 1, len(plan[0]), self.seed, "shift", axis, epoch))
        plan.append(below(2 if self._flip else 1, len(plan[0]), self.seed, "flip", epoch))
        order, down, right, mirror = torch.from_numpy(np.stack(plan)).to(self.device)
        for start in range(0, len(order), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self._batch(order[part], down[part], right[part], mirror[part])

    def once(self) -> Iterator[Batch]:
        """Every image once and as it is, in order, the last batch of what is left."""
        order = torch.arange(len(self.images), device=self.device)
        for start in range(0, len(order), self.batch_size):
            index = order[start : start + self.batch_size]
            down, right = (torch.full_like(index, shift) for shift in self._shift)
            yield self._batch(index, down, right, torch.zeros_like(index))

    def _batch(self, index: torch.Tensor, down: torch.Tensor, right: torch.Tensor, mirror: torch.Tensor) -> Batch:
        channels, height, width = self.images.shape
        across = torch.arange(width, device=self.device)
        across = torch.where(mirror[:, None] == 1, across.flip(0), across)
        rows = self._rows[down[:, None] + torch.arange(height, device=self.device)]
        columns = self._columns[right[:, None] + across]
        where = (index[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]
        pixels = self._pixels.index_select(0, where.view(-1)).view(-1, height, width, channels)
        images = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last).div_(255)
        return Batch(images, self.labels[index], index)


def _reflected(extent: int, shift: int) -> torch.Tensor:
    """Source position int64 [extent + 2 * shift] of every position of an axis padded by reflection."""
    place = torch.arange(-shift, extent + shift).abs()
    return torch.where(place > extent - 1, 2 * (extent - 1) - place, place)
