"""Finding a trigger on a frozen network: Adam on a few tensors against a loss of clean images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from ..data import Batches, ImageSet
from ..errors import UsageError
from ..training import state
from ..training.fit import differences
from ..triggers.patch import place
from .base import affine, drive
from .work import Work

BATCH = 64
KEEP_SECONDS = 20.0  # between two looks at what a killed search would lose
Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]


def batches_for(images: ImageSet, seed: int, work: Work) -> Batches:
    """Clean images as a search sees them."""
    return Batches(images, BATCH, seed=seed, augment="none", device=work.device)


def search(
    name: str,
    loss: Callable[[torch.Tensor], torch.Tensor],
    variables: Sequence[nn.Parameter],
    batches: Batches,
    steps: int,
    rate: float,
    work: Work,
) -> None:
    """Minimise ``loss`` of clean images float [B, C, H, W] over ``variables``, in place; no other gradient is kept.

    A search that was killed goes on from where the folder of ``work`` last kept it and on the CPU ends with the same bits.
    Raises UsageError where that folder holds the search of another run.
    """
    held, folder = nn.ParameterList(variables), work.place("trigger")
    optimiser = torch.optim.Adam(held.parameters(), lr=rate)
    first = 0 if folder is None else _resume(folder, held, optimiser, work)
    epoch, skipped = divmod(first, batches.steps)
    stream = islice(chain.from_iterable(batches.epoch(number) for number in count(epoch)), skipped, None)
    kept = time.monotonic()
    for done, batch in enumerate(islice(stream, max(0, steps - first)), first + 1):
        value = loss(batch.images)
        drive(optimiser, value, variables)
        if folder is not None and (done == steps or time.monotonic() - kept > KEEP_SECONDS):
            state.write(folder, done, state.collect(held, (optimiser,)), {"identity": work.about()})
            kept = time.monotonic()
        if work.progress is not None:
            work.progress(f"{name} trigger", done, steps, {"loss": float(value.detach())})


def _resume(folder: Path, held: nn.Module, optimiser: torch.optim.Optimizer, work: Work) -> int:
    """The steps that were done."""
    saved = state.read(folder)
    if saved is None:
        return 0
    differing = differences(saved.notes["identity"], work.about())
    if differing:
        raise UsageError(
            f"{folder} holds the search of an attack with other settings: {', '.join(differing[:3])}. Give the "
            "same settings again, or choose another folder."
        )
    state.restore(saved.tensors, held, (optimiser,))
    return saved.epoch


class PatchSearch:
    """A square whose content is searched for: ``size`` pixels in a corner, ``paste`` puts it on float images."""

    def __init__(self, shape: tuple[int, int, int], size: int, position: str, seed: int, device: torch.device) -> None:
        channels, height, width = shape
        row, column = place(position, (size, size), shape)
        self.mask = torch.zeros(1, height, width, device=device)
        self.mask[:, row : row + size, column : column + size] = 1
        generator = torch.Generator().manual_seed(seed)
        self.content = nn.Parameter(torch.randn(channels, height, width, generator=generator).to(device))

    def paste(self, images: torch.Tensor) -> torch.Tensor:
        """x' = (1 - m) x + m sigmoid(content)."""
        return (1 - self.mask) * images + self.mask * torch.sigmoid(self.content)

    def params(self) -> dict[str, np.ndarray]:
        """The square as it is now, as an affine trigger."""
        return affine(torch.sigmoid(self.content).detach().cpu().numpy(), self.mask.cpu().numpy())
