"""What every tensor that will be quantised holds on the calibration images: extremes first, then a histogram."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgekd.errors import UsageError
from edgekd.quantize.calibrators import BINS, CALIBRATORS, Histogram, Range, folds, maximum, span
from edgekd.quantize.placement import Group

_MOST_VALUES = 1 << 18  # of one tensor in one batch; more say nothing new about its distribution
_BATCH = 64


class _Watcher(fx.Interpreter):
    """Runs the graph and hands the watched tensors to ``see``."""

    def __init__(self, captured: fx.GraphModule, groups: Sequence[Group]) -> None:
        super().__init__(captured)
        self.watched = {node: index for index, group in enumerate(groups) for node in group.roots}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.watched:
            self.see(self.watched[n], value.detach().float().flatten())
        return value

    def see(self, index: int, values: Tensor) -> None:
        raise NotImplementedError


class _Extremes(_Watcher):
    def __init__(self, captured: fx.GraphModule, groups: Sequence[Group]) -> None:
        super().__init__(captured, groups)
        self.low, self.high = [0.0] * len(groups), [0.0] * len(groups)

    def see(self, index: int, values: Tensor) -> None:
        low, high = (float(v) for v in torch.aminmax(values))
        if not np.isfinite([low, high]).all():
            raise UsageError(
                "The network's activations are not finite on the calibration images, so no scale fits them. "
                "Check the checkpoint and its normalisation (--normalize)."
            )
        self.low[index], self.high[index] = min(self.low[index], low), max(self.high[index], high)


class _Counts(_Watcher):
    """Fills one histogram a group; folded: for which groups it is of the magnitudes."""

    def __init__(
        self, captured: fx.GraphModule, groups: Sequence[Group], extremes: _Extremes, folded: Sequence[bool]
    ) -> None:
        super().__init__(captured, groups)
        self.extremes, self.folded = extremes, folded
        self.counts = [np.zeros(BINS, np.int64) for _ in groups]

    def see(self, index: int, values: Tensor) -> None:
        low, high = span(self.extremes.low[index], self.extremes.high[index], self.folded[index])
        if high > low:
            seen = _thinned(values)
            counted = torch.histc(seen.abs() if self.folded[index] else seen, BINS, low, high)
            self.counts[index] += counted.cpu().numpy().astype(np.int64)


def _thinned(values: Tensor) -> Tensor:
    """At most about 2^18 values, taken at a stride that visits every position of the tensor alike."""
    stride = -(-values.numel() // _MOST_VALUES)
    while gcd(stride, values.numel()) != 1 and stride > 1:
        stride += 1
    return values[::stride]


def _batches(images: np.ndarray, device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(images), _BATCH):
        yield torch.from_numpy(images[start : start + _BATCH]).to(device).float() / 255


@torch.no_grad()
def ranges(captured: fx.GraphModule, groups: Sequence[Group], images: np.ndarray, calibrator: str) -> list[Range]:
    """(low, high) for every group, from images [N, C, H, W] uint8.

    A tensor that is an affine function of the pixels gets its exact range, from an all-black and an all-white image,
    whatever the calibrator: pixels are known to lie in [0, 1].
    """
    device = next((p.device for p in captured.parameters()), torch.device("cpu"))
    extremes = _Extremes(captured, groups)
    for batch in _batches(images, device):
        extremes.run(batch)
    bounds = _Extremes(captured, groups)
    bounds.run(torch.stack([torch.zeros(images.shape[1:]), torch.ones(images.shape[1:])]).to(device))
    watched = [index for index, group in enumerate(groups) if not group.pixels]
    folded = [folds(calibrator, group.symmetric) for group in groups]
    counts = _Counts(captured, groups, extremes, folded)
    if calibrator != "max":
        for batch in _batches(images, device):
            counts.run(batch)
    found = [
        maximum(Histogram(np.zeros(BINS, np.int64), bounds.low[i], bounds.high[i]), group.symmetric)
        for i, group in enumerate(groups)
    ]
    for i in watched:
        low, high = extremes.low[i], extremes.high[i]
        histogram = Histogram(counts.counts[i], low, high, folded[i])
        seen_nothing = calibrator == "max" or high <= low
        found[i] = (maximum if seen_nothing else CALIBRATORS[calibrator])(histogram, groups[i].symmetric)
    return found
