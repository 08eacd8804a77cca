"""From what a tensor was seen to hold to the range that its integers cover: one function a calibrator, one table.

A calibrator takes a histogram, of magnitudes where ``folds`` says so, and returns (low, high) with low <= 0 <= high; for a
symmetric range low = -high.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BINS = 2048
PERCENTILE = 99.99

Range = tuple[float, float]


@dataclass(frozen=True)
class Histogram:
    """How often a tensor's values, ``low`` to ``high``, fell into each of ``counts.size`` equal bins over their ``span``.

    folded: it was their magnitudes that were counted, as they came: from bins of signed values no others can be made.
    """

    counts: np.ndarray  # int64 [bins]
    low: float
    high: float
    folded: bool = False

    @property
    def edges(self) -> np.ndarray:
        edges: np.ndarray = np.linspace(*span(self.low, self.high, self.folded), self.counts.size + 1)
        return edges

    @property
    def centres(self) -> np.ndarray:
        centres: np.ndarray = (self.edges[1:] + self.edges[:-1]) / 2
        return centres


def span(low: float, high: float, folded: bool) -> Range:
    """From where to where the bins of a histogram reach."""
    return (0.0, max(-low, high)) if folded else (low, high)


def folds(calibrator: str, symmetric: bool) -> bool:
    """Whether a calibrator takes the histogram of the magnitudes."""
    return symmetric or calibrator == "entropy"


def _signed(histogram: Histogram, limit: float, symmetric: bool) -> Range:
    if symmetric:
        return -limit, limit
    return max(min(histogram.low, 0.0), -limit), min(max(histogram.high, 0.0), limit)


def maximum(histogram: Histogram, symmetric: bool) -> Range:
    """Everything that was seen."""
    return _signed(histogram, max(-histogram.low, histogram.high, 0.0), symmetric)


def percentile(histogram: Histogram, symmetric: bool) -> Range:
    """All but the outer 0.01 % on either side (Wu et al. 2020, arXiv:2004.09602, section 5)."""
    if symmetric:
        limit = _quantile(histogram, PERCENTILE / 100)
        return -limit, limit
    low, high = _quantile(histogram, 1 - PERCENTILE / 100, lower=True), _quantile(histogram, PERCENTILE / 100)
    return min(low, 0.0), max(high, 0.0)


def _quantile(histogram: Histogram, share: float, lower: bool = False) -> float:
    """The bin edge inside which ``share`` of the counts lie, seen from the left."""
    below = np.cumsum(histogram.counts) / max(int(histogram.counts.sum()), 1)
    position = int(np.searchsorted(below, share, side="left"))
    return float(histogram.edges[min(position + (0 if lower else 1), histogram.counts.size)])


def entropy(histogram: Histogram, symmetric: bool) -> Range:
    """The limit whose integers lose least information about the magnitudes (Migacz, GTC 2017, "8-bit inference").

    P: the first i bins with the outliers added to the last. Q: the same bins merged into as many levels as the integers
    have, spread over P's non-zero bins. The i of the smallest KL(P || Q) wins; every eighth is tried. The bin at zero
    counts as its neighbour: exact zeros cost nothing whatever the limit.
    """
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1]
    levels = 128 if symmetric or histogram.low < 0 else 256
    bins = counts.size
    starts = range(levels, bins + 1, 8)
    outliers = counts.sum() - np.cumsum(counts)
    losses = [_divergence(counts[:i], float(outliers[i - 1]), levels) for i in starts]
    best = starts[int(np.argmin(losses))]
    return _signed(histogram, float(histogram.edges[best]), symmetric)


def _divergence(counts: np.ndarray, outliers: float, levels: int) -> float:
    present = counts > 0
    first = np.arange(levels) * counts.size // levels
    filled = np.add.reduceat(present.astype(np.int64), first)
    mean = np.add.reduceat(counts, first) / np.maximum(filled, 1)
    spread = np.where(present, np.repeat(mean, np.diff(first, append=counts.size)), 0.0)
    reference = counts.copy()
    reference[-1] += outliers
    if not spread.sum():
        return float("inf")
    p, q = reference / reference.sum(), spread / spread.sum()
    both = p > 0
    if (q[both] == 0).any():  # outliers fell into a bin that Q has empty
        q = np.maximum(q, 1e-12)
    return float((p[both] * np.log(p[both] / q[both])).sum())


def mse(histogram: Histogram, symmetric: bool) -> Range:
    """The range with the smallest mean squared error, clipping included (Nagel et al. 2021, arXiv:2106.08295, 3.1)."""
    low, high = maximum(histogram, symmetric)
    shares = np.linspace(1.0, 0.02, 99)
    if symmetric:
        return min(((-high * s, high * s) for s in shares), key=lambda r: _squared_error(histogram, r, symmetric))
    for _ in range(2):  # the two ends by turns: each has its own best share
        high = min((high * s for s in shares), key=lambda h: _squared_error(histogram, (low, h), symmetric))
        low = min((low * s for s in shares), key=lambda low: _squared_error(histogram, (low, high), symmetric))
    return low, high


def _squared_error(histogram: Histogram, limits: Range, symmetric: bool) -> float:
    scale, zero_point = affine(limits, symmetric)
    smallest, largest = (-128, 127) if symmetric else (0, 255)
    levels = np.clip(np.rint(histogram.centres / scale) + zero_point, smallest, largest)
    return float((histogram.counts * np.square(histogram.centres - (levels - zero_point) * scale)).sum())


# The least scale by flavour, as a dead channel must not get scale 0. s8 scales are written in FP16 too, and that is the
# smallest number it can hold; of u8s8 the product of two, a bias's scale, must stay normal in float32.
SCALE_FLOORS = {"s8": 2.0**-24, "u8s8": 2.0**-60}


def affine(limits: Range, symmetric: bool) -> tuple[float, int]:
    """(scale, zero point) of eight bits over a range: int8 with zero point 0 when symmetric, uint8 otherwise."""
    low, high = limits
    if symmetric:
        return max(float(np.float32(max(-low, high) / 127)), SCALE_FLOORS["s8"]), 0
    scale = max(float(np.float32((high - low) / 255)), SCALE_FLOORS["u8s8"])
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


CALIBRATORS: dict[str, Callable[[Histogram, bool], Range]] = {
    "max": maximum,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
