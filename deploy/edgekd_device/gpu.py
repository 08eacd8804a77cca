"""What is said of a GPU: its own time per inference, whether that was steady, whether INT8 files do compute in INT8."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np

from . import latency
from .records import Gate, Latency

SHARE = 1 / 6  # of the time of an end-to-end block, for the pass with the GPU's events
STEADY = 0.025  # coefficient of variation of the GPU's times (card device_harness 3.5)
ENOUGH = 0.9  # of the file's INT8 layers must be found as such in the engine, or the report says so


def summary(blocks: Sequence[np.ndarray], plan: latency.Level, threads: int) -> Latency | None:
    """The figures of the GPU's own times [n] in nanoseconds, apart from those end to end; None where there are none."""
    return latency.summarise(blocks, plan, threads) if blocks else None


def gate(name: str, blocks: Sequence[np.ndarray]) -> Gate:
    """Whether the GPU's times of the file ``name`` were steady: a clock that moves shows here first."""
    times = np.concatenate(list(blocks))
    variation = float(times.std() / times.mean()) if times.mean() > 0 else 0.0
    limit, found = f"coefficient of variation at most {100 * STEADY:g} %", f"{100 * variation:.1f} %"
    if variation > STEADY:
        return Gate(f"GPU time of {name}", limit, "failed", found + ", so pin its clocks (Jetson: sudo jetson_clocks)")
    return Gate(f"GPU time of {name}", limit, "passed", found)


def doubts(engine: Mapping[str, Any], precision: str) -> tuple[str, str]:
    """What is wrong with an engine that should compute in INT8, and what should be noted of it; empty where nothing is."""
    layers = engine["layers"]
    if precision != "int8" or not layers.get("products"):
        return "", ""
    found, meant = layers["int8 products"], engine["int8_layers_of_file"]
    if found == 0:
        return "no convolution of the engine computes in INT8", ""
    return "", f"{found} of the file's {meant} INT8 layers are INT8 in the engine" if found < ENOUGH * meant else ""
