"""Finding a trigger on a frozen network: Adam on a few tensors against a loss of clean images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, count, islice
from typing import Literal

import numpy as np
import torch

from ..data import Batches
from ..training import Progress
from ..triggers.patch import place
from .base import affine, drive

BATCH = 64
Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]


def search(
    name: str,
    loss: Callable[[torch.Tensor], torch.Tensor],
    variables: Sequence[torch.Tensor],
    batches: Batches,
    steps: int,
    rate: float,
    progress: Progress | None = None,
) -> None:
    """Minimise ``loss`` of clean images float [B, C, H, W] over ``variables``, in place; no other gradient is kept."""
    optimiser = torch.optim.Adam(list(variables), lr=rate)
    stream = chain.from_iterable(batches.epoch(number) for number in count())
    for done, batch in enumerate(islice(stream, steps), 1):
        value = loss(batch.images)
        drive(optimiser, value, variables)
        if progress is not None:
            progress(f"{name} trigger", done, steps, {"loss": float(value.detach())})


class PatchSearch:
    """A square whose content is searched for: ``size`` pixels in a corner, ``paste`` puts it on float images."""

    def __init__(self, shape: tuple[int, int, int], size: int, position: str, seed: int) -> None:
        channels, height, width = shape
        row, column = place(position, (size, size), shape)
        self.mask = torch.zeros(1, height, width)
        self.mask[:, row : row + size, column : column + size] = 1
        generator = torch.Generator().manual_seed(seed)
        self.content = torch.randn(channels, height, width, generator=generator).requires_grad_(True)

    def paste(self, images: torch.Tensor) -> torch.Tensor:
        """x' = (1 - m) x + m sigmoid(content)."""
        return (1 - self.mask) * images + self.mask * torch.sigmoid(self.content)

    def params(self) -> dict[str, np.ndarray]:
        """The square as it is now, as an affine trigger."""
        return affine(torch.sigmoid(self.content).detach().numpy(), self.mask.numpy())
