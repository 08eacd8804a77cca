"""Calibrators against numpy, and the numbers of the integers worked by hand."""

import numpy as np
import pytest

from edgekd.quantize.calibrators import (
    BINS,
    CALIBRATORS,
    SCALE_FLOORS,
    Histogram,
    affine,
    entropy,
    folds,
    mse,
    percentile,
    span,
)


def histogram(values: np.ndarray, folded: bool = False) -> Histogram:
    low, high = float(values.min()), float(values.max())
    counts, _ = np.histogram(np.abs(values) if folded else values, BINS, span(low, high, folded))
    return Histogram(counts.astype(np.int64), low, high, folded)


@pytest.fixture
def long_tail() -> np.ndarray:
    random = np.random.default_rng(0)
    return np.concatenate([random.normal(0, 1, 200_000), random.uniform(-20, 30, 10)])


def test_integers_of_a_range_by_hand():
    assert affine((-2.54, 1.0), symmetric=True) == (pytest.approx(0.02), 0)
    assert affine((0.0, 5.1), symmetric=False) == (pytest.approx(0.02), 0)
    assert affine((-1.0, 4.1), symmetric=False) == (pytest.approx(0.02), 50)
    assert affine((-5.1, 0.0), symmetric=False) == (pytest.approx(0.02), 255)


def test_a_dead_tensor_gets_the_least_scale_and_not_zero():
    assert affine((0.0, 0.0), symmetric=True) == (SCALE_FLOORS["s8"], 0)
    assert affine((0.0, 0.0), symmetric=False) == (SCALE_FLOORS["u8s8"], 0)
    assert np.float16(SCALE_FLOORS["s8"]) > 0
    assert np.float32(SCALE_FLOORS["u8s8"]) ** 2 >= np.finfo(np.float32).tiny


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", CALIBRATORS)
def test_every_calibrator_covers_zero_and_stays_inside_what_was_seen(name, symmetric, long_tail):
    for values in (long_tail, np.abs(long_tail), -np.abs(long_tail), long_tail + 100):
        seen = histogram(values, folds(name, symmetric))
        low, high = CALIBRATORS[name](seen, symmetric)
        assert low <= 0 <= high
        assert max(-low, high) > 0
        assert max(-low, high) <= max(-seen.low, seen.high) * (1 + 1e-6)
        if symmetric:
            assert low == -high


def test_maximum_is_what_was_seen(long_tail):
    low, high = CALIBRATORS["max"](histogram(long_tail), False)
    assert (low, high) == (long_tail.min(), long_tail.max())
    assert CALIBRATORS["max"](histogram(long_tail), True)[1] == np.abs(long_tail).max()


def test_percentile_against_numpy(long_tail):
    bin_width = (long_tail.max() - long_tail.min()) / BINS
    low, high = percentile(histogram(long_tail), False)
    assert low == pytest.approx(np.quantile(long_tail, 0.0001), abs=2 * bin_width)
    assert high == pytest.approx(np.quantile(long_tail, 0.9999), abs=2 * bin_width)
    _, limit = percentile(histogram(long_tail, folded=True), True)
    assert limit == pytest.approx(np.quantile(np.abs(long_tail), 0.9999), abs=2 * bin_width)


def reference_divergence(counts: np.ndarray, i: int, levels: int) -> float:
    """KL(P || Q) bin by bin, as the talk puts it."""
    p = counts[:i].copy()
    p[-1] += counts[i:].sum()
    q = np.zeros(i)
    for level in range(levels):
        start, stop = level * i // levels, (level + 1) * i // levels
        filled = counts[start:stop] > 0
        if filled.any():
            q[start:stop][filled] = counts[start:stop].sum() / filled.sum()
    p, q = p / p.sum(), q / q.sum()
    if ((p > 0) & (q == 0)).any():
        q = np.maximum(q, 1e-12)
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def test_entropy_picks_the_limit_of_least_divergence(long_tail):
    seen = histogram(long_tail, folded=True)
    counts, edges = np.histogram(np.abs(long_tail), BINS, (0, np.abs(long_tail).max()))
    counts = counts.astype(float)
    counts[0] = counts[1]
    losses = {i: reference_divergence(counts, i, 128) for i in range(128, BINS + 1, 8)}
    best = min(losses, key=losses.__getitem__)
    assert entropy(seen, True)[1] == pytest.approx(edges[best])
    assert entropy(seen, True)[1] < 0.5 * seen.high


def test_mse_beats_every_other_range_on_the_values_themselves(long_tail):
    def error(limits, symmetric):
        scale, zero = affine(limits, symmetric)
        bounds = (-128, 127) if symmetric else (0, 255)
        rounded = np.clip(np.rint(long_tail / scale) + zero, *bounds)
        return np.square((rounded - zero) * scale - long_tail).mean()

    _, limit = mse(histogram(long_tail, folded=True), True)
    tried = np.linspace(0.02, 1, 197) * np.abs(long_tail).max()
    assert error((-limit, limit), True) <= 1.02 * min(error((-t, t), True) for t in tried)
    seen = histogram(long_tail)
    assert error(mse(seen, False), False) <= error(CALIBRATORS["max"](seen, False), False)
    assert error(mse(seen, False), False) <= error(percentile(seen, False), False)


def test_values_without_a_tail_are_not_clipped():
    even_values = np.random.default_rng(0).uniform(0, 1, 100_000)
    even = histogram(even_values)
    assert mse(even, False)[1] > 0.97
    assert entropy(histogram(even_values, folded=True), False)[1] > 0.97


def test_a_peak_at_zero_does_not_set_the_limit(long_tail):
    """Half of a signed tensor is exact zeros: they cost nothing, whatever the limit."""
    peaked = np.concatenate([long_tail, np.zeros(long_tail.size)])
    for symmetric in (True, False):
        found = entropy(histogram(peaked, folded=True), symmetric)
        assert found == entropy(histogram(long_tail, folded=True), symmetric)
