"""Latency in the manner of MLPerf's SingleStream and MultiStream: warm-up, timed blocks, nearest-rank percentiles.

The clock is a function that returns nanoseconds, so that tests bring their own. No sample is ever dropped.
"""

from __future__ import annotations

import contextlib
import gc
from array import array
from dataclasses import dataclass, replace
from math import exp, lgamma, log, log1p, sqrt
from typing import Any, Callable, Iterator, Sequence

import numpy as np

from .errors import UsageError, did_you_mean
from .metrics import percentile
from .records import Latency

Clock = Callable[[], int]
Infer = Callable[[Any], Any]
STEADY = 0.01  # medians of two windows in a row differ by less
SPREAD = 0.03  # of the block medians, at most
MULTISTREAM = 8  # images per query, as MLPerf has it
# Student's t, 97.5 %, for the mean of 3, 4 and 5 block medians
T975 = {3: 4.303, 4: 3.182, 5: 2.776}


@dataclass(frozen=True)
class Level:
    """How long everything is measured; seconds unless said otherwise."""

    name: str
    blocks: int
    seconds: float  # of one block
    samples: int  # of all blocks together, at least
    warm_iterations: int
    warm_seconds: float
    window: float  # of the warm-up, whose median is compared with the one before
    warm_cap: float  # 0: no steady state is asked for
    inputs: int  # different images that are cycled through
    sweep: float = 0.0  # throughput, per batch size
    power: float = 0.0  # idle, and again under load
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    multistream: float = 0.0  # queries of MULTISTREAM images, one at a time
    soak: float = 0.0  # heat soak, at most
    publishable: bool = False  # the machine is watched (gates), raw times are kept


SMOKE = Level("smoke", 1, 3.0, 1, 1, 0.2, 0.2, 0.0, 64)
STANDARD = Level(
    "standard",
    blocks=3,
    seconds=60.0,
    samples=5000,
    warm_iterations=200,
    warm_seconds=3.0,
    window=1.0,
    warm_cap=60.0,
    inputs=1024,
    sweep=10.0,
    power=60.0,
    multistream=60.0,
    soak=600.0,
    publishable=True,
)
OFFICIAL = replace(STANDARD, name="official", seconds=600.0, sweep=86.0, multistream=600.0)
LEVELS: dict[str, Level] = {level.name: level for level in (SMOKE, STANDARD, OFFICIAL)}


def level_named(name: str) -> Level:
    """The level called ``name``; raises UsageError with the nearest name."""
    if name not in LEVELS:
        hint = did_you_mean(name, LEVELS) or " Choose one of: {}.".format(", ".join(LEVELS))
        raise UsageError(f"There is no level {name!r}.{hint}")
    return LEVELS[name]


def warm_up(infer: Infer, inputs: Sequence[Any], level: Level, clock: Clock) -> bool:
    """Run until the level's warm-up is over; False when no steady state was reached before its cap."""
    started, count, before = clock(), 0, -1.0
    while True:
        times: list[int] = []
        opened = clock()
        while not times or clock() - opened < level.window * 1e9:
            begun = clock()
            infer(inputs[count % len(inputs)])
            times.append(clock() - begun)
            count += 1
        median, elapsed = percentile(sorted(times), 0.5), (clock() - started) / 1e9
        warm = count >= level.warm_iterations and elapsed >= level.warm_seconds
        if warm and (level.warm_cap == 0.0 or abs(median - before) < STEADY * before):
            return True
        if level.warm_cap and elapsed >= level.warm_cap:
            return False
        before = median


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected in here: that would be timed."""
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def timed_block(infer: Infer, inputs: Sequence[Any], seconds: float, samples: int, clock: Clock) -> np.ndarray:
    """Nanoseconds of every inference [n]: at least ``seconds`` and at least ``samples`` of them, one at a time."""
    times = array("q", bytes(8 * max(samples, 1 << 16)))
    count, different = 0, len(inputs)
    with uncollected():
        deadline = clock() + int(seconds * 1e9)
        while True:
            image = inputs[count % different]
            begun = clock()
            infer(image)
            ended = clock()
            times[count] = ended - begun
            count += 1
            if ended >= deadline and count >= samples:
                break
            if count == len(times):
                times.extend(array("q", bytes(8 * count)))  # outside the timed stretch
    return np.frombuffer(times, np.int64, count)


def throughput(infer: Infer, images: np.ndarray, seconds: float, clock: Clock) -> float:
    """Samples per second of ``images`` float32 [B, C, H, W] given again and again, by the wall clock."""
    infer(images)
    begun, count = clock(), 0
    while True:
        infer(images)
        count += len(images)
        elapsed = clock() - begun
        if elapsed >= seconds * 1e9:
            return count / elapsed * 1e9


def summarise(blocks: Sequence[np.ndarray], level: Level, threads: int, steady: bool = True, batch: int = 1) -> Latency:
    """The figures of all blocks [n] in nanoseconds, with what makes them invalid or unfit to be quoted.

    batch: images per query.
    """
    times = np.concatenate(list(blocks)) / 1e6
    ordered = np.sort(times)
    count = len(ordered)
    p50 = percentile(ordered, 0.5)
    medians, wrong = _medians(blocks), faults(blocks, level, steady)
    notes = ["smoke level: for orientation, not for publication"] if level.name == "smoke" else []
    if level.name == "official":
        notes.append("blocks share one process; run it three times and compare")
    return Latency(
        batch=batch,
        count=count,
        p50_ms=p50,
        p90_ms=percentile(ordered, 0.9),
        p99_ms=_supported(ordered, 0.99),
        p999_ms=_supported(ordered, 0.999),
        mean_ms=float(times.mean()),
        min_ms=float(ordered[0]),
        max_ms=float(ordered[-1]),
        p50_interval_ms=_median_interval(ordered, medians),
        block_p50_ms=medians,
        level=level.name,
        threads=threads,
        valid=not wrong,
        notes=(*wrong, *notes),
        p90_bound_ms=early_stop(ordered, 0.9),
        p99_bound_ms=early_stop(ordered, 0.99),
        over_twice_p50=int((ordered > 2 * p50).sum()),
        lag1=_lag1(times),
    )


def faults(blocks: Sequence[np.ndarray], level: Level, steady: bool = True) -> tuple[str, ...]:
    """Every reason for which the figures of all blocks [n] are not valid; they stand first in the notes of `summarise`."""
    medians, found = _medians(blocks), []
    if not steady:
        found.append(f"no steady state within {level.warm_cap:g} s of warm-up")
    if max(medians) > (1 + SPREAD) * min(medians):
        found.append(f"block medians differ by {100 * (max(medians) / min(medians) - 1):.1f} %")
    return tuple(found)


def _medians(blocks: Sequence[np.ndarray]) -> tuple[float, ...]:
    """In milliseconds."""
    return tuple(percentile(np.sort(block), 0.5) / 1e6 for block in blocks)


def _supported(ordered: np.ndarray, fraction: float) -> float | None:
    """The percentile, or None where there are too few samples to speak of it."""
    return percentile(ordered, fraction) if len(ordered) >= min_queries(1, fraction) else None


def _median_interval(ordered: np.ndarray, medians: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the median: between blocks where there are enough of them, else by order statistics."""
    if len(medians) in T975:
        half = T975[len(medians)] * float(np.std(medians, ddof=1)) / sqrt(len(medians))
        return float(np.mean(medians)) - half, float(np.mean(medians)) + half
    ranks = quantile_ci_ranks(len(ordered), 0.5)
    return None if ranks is None else (float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1]))


def _lag1(times: np.ndarray) -> float | None:
    """Autocorrelation at lag one; None for constant or too few values."""
    centred = times - times.mean()
    power = float((centred * centred).sum())
    return None if power == 0.0 else float((centred[1:] * centred[:-1]).sum()) / power


def _log_pmf(k: int, n: int, q: float) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(q) + (n - k) * log1p(-q)


def _negligible(n: int, q: float) -> int:
    """12 standard deviations below the mean of Binomial(n, q): what lies under it adds nothing, and may be millions of terms."""
    return max(0, int(n * q - 12 * sqrt(n * q * (1 - q))))


def _cdf(n: int, q: float, first: int = 0) -> Iterator[tuple[int, float]]:
    """(k, P(first <= Binomial(n, q) <= k)) for k = first ... n."""
    total = 0.0
    for k in range(first, n + 1):
        total += exp(_log_pmf(k, n, q))
        yield k, min(1.0, total)


def min_queries(over: int, fraction: float, confidence: float = 0.99) -> int:
    """Fewest samples that bound a percentile when ``over`` of them may lie above the bound (MLPerf early stopping)."""

    def enough(n: int) -> bool:
        return next(total for k, total in _cdf(n, 1 - fraction) if k == over) <= 1 - confidence

    low, high = over + 1, over + 2
    while not enough(high):
        high *= 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def early_stop(ordered: Any, fraction: float, confidence: float = 0.99) -> float | None:
    """Upper confidence bound on a percentile of sorted values, as LoadGen reports it; None with too few samples.

    Equal to the search for the largest t with n >= min_queries(t), in one pass over the binomial distribution.
    """
    allowed = 0
    count, above = len(ordered), 1 - fraction
    for k, total in _cdf(count, above, _negligible(count, above)):
        if total > 1 - confidence:
            break
        allowed = k
    return float(ordered[count - allowed]) if allowed else None


def quantile_ci_ranks(n: int, fraction: float, confidence: float = 0.95) -> tuple[int, int] | None:
    """1-based ranks of the order statistics around a percentile, for any distribution; None where n is too small."""
    tail = (1 - confidence) / 2
    low = high = None
    for k, total in _cdf(n, fraction, _negligible(n, fraction)):
        if total > tail and low is None:
            low = k
        if total >= 1 - tail:
            high = k + 1
            break
    return (low, high) if low and high and high <= n else None
