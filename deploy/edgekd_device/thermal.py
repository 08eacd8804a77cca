"""Heat soak: the machine works until it is as warm as it will be, so that the first timed block meets what the last does."""

from __future__ import annotations

import statistics
from typing import Any, Callable, Sequence

from . import environment
from .runtime.base import Progress

WINDOW = 60.0  # s over which the hottest zone must have stood still
MOVED_C = 1.0  # less than this is standing still (card device_harness 3.1)
EVERY = 1.0  # s of work between two readings
# A CPU's sensor jumps by degrees from one reading to the next: what is compared are medians of this many seconds.
SMOOTH = 10.0


def soak(
    work: Callable[[], Any], cap: float, clock: Callable[[], int], root: str, report: Progress
) -> dict[str, Any] | None:
    """Repeat ``work`` until the hottest thermal zone moved by less than 1 °C in 60 s, for at most ``cap`` seconds.

    clock: nanoseconds. Returns seconds spent, temperatures in °C and whether they stood still (``steady``); None where
    no zone can be read, and then nothing is run.
    """
    started, readings = clock(), [(0.0, environment.temperature(root))]
    while True:
        elapsed, celsius = readings[-1]
        if celsius is None:
            return None
        known = [(at, value) for at, value in readings if value is not None]
        moved = movement(known)
        steady = moved is not None and moved < MOVED_C
        if steady or elapsed >= cap:
            report("heat soak", int(cap), int(cap), {"temp_c": celsius})
            return {
                "seconds": elapsed,
                "start_c": known[0][1],
                "end_c": celsius,
                "moved_c": moved,
                "steady": steady,
            }
        report("heat soak", int(elapsed), int(cap), {"temp_c": celsius})
        until = clock() + int(EVERY * 1e9)
        while True:
            work()
            if clock() >= until:
                break
        readings.append(((clock() - started) / 1e9, environment.temperature(root)))


def movement(readings: Sequence[tuple[float, float]]) -> float | None:
    """By how many °C the readings (seconds, °C) of the last 60 s differ, smoothed; None before 60 s have passed."""
    now = readings[-1][0]
    if now < WINDOW:
        return None
    bins: dict[int, list[float]] = {}
    for at, celsius in readings:
        if now - at < WINDOW:
            bins.setdefault(int((now - at) / SMOOTH), []).append(celsius)
    medians = [statistics.median(values) for values in bins.values()]
    return max(medians) - min(medians)
