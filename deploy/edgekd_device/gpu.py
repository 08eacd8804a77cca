"""What is said of a GPU: its own time per inference, whether that was steady, whether INT8 files do compute in INT8."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np

from . import latency
from .records import Gate, Latency

SHARE = 1 / 6  # of the time of an end-to-end block, for the pass with the GPU's events
STEADY = 0.025  # coefficient of variation of the GPU's times (card device_harness 3.5)
STEADIER = (
    ": pin its clocks (Jetson: sudo jetson_clocks), and where a note says that launching binds it, use --cuda-graph"
)
BOUND = 0.8  # of the GPU's median: from here on the processor's launches decide (card device_harness 2.1)
ENOUGH = 0.9  # of the file's INT8 layers, as far as the engine shows them, must be INT8 there
SEEN = 0.5  # of the file's INT8 layers must be shown, or nothing is said


def summary(blocks: Sequence[np.ndarray], plan: latency.Level, threads: int) -> Latency | None:
    """The figures of the GPU's own times [n] in nanoseconds, apart from those end to end; None where there are none."""
    return latency.summarise(blocks, plan, threads) if blocks else None


def gate(name: str, blocks: Sequence[np.ndarray]) -> Gate:
    """Whether the GPU's times of the file ``name`` were steady: a clock that moves shows here first."""
    times = np.concatenate(list(blocks))
    variation = float(times.std() / times.mean()) if times.mean() > 0 else 0.0
    limit, found = f"coefficient of variation at most {100 * STEADY:g} %", f"{100 * variation:.1f} %"
    if variation > STEADY:
        return Gate(f"GPU time of {name}", limit, "failed", found + STEADIER)
    return Gate(f"GPU time of {name}", limit, "passed", found)


def launching(engine: Mapping[str, Any], alone: Latency) -> str:
    """That the GPU waits for the processor, whose launches take about as long as its work; empty where it does not."""
    launch = engine.get("launch_ms")
    if launch is None or launch <= BOUND * alone.p50_ms:
        return ""
    way_out = "" if engine["cuda_graph"] else ": use --cuda-graph"
    return f"bound by launching, which takes {launch:.4g} ms of the processor{way_out}"


def int8_gate(name: str, engine: Mapping[str, Any]) -> Gate:
    """Whether the engine of the INT8 file ``name`` computes in INT8 what the file says (card device_harness 5.4).

    Layers may be fused, so of fewer products in the engine than INT8 layers in the file all count; but where less than half of
    them can be seen, the rest went into kernels that do not say what they compute in, and nothing is proved.
    """
    what, limit = f"INT8 layers of {name}", f"{100 * ENOUGH:g} % or more of those that the engine shows"
    layers, meant = engine["layers"], engine["int8_layers_of_file"]
    shown = layers.get("products")
    if not shown:
        return Gate(what, limit, "not measured", "the engine does not say what its products compute in")
    found = layers["int8 products"]
    words = f"{found} of the file's {meant} INT8 layers are INT8 in the engine, which shows {shown} products"
    if found < max(1, ENOUGH * min(meant, shown)):
        return Gate(what, limit, "failed", words)
    return Gate(what, limit, "passed" if shown >= SEEN * meant else "not measured", words)


def half_gate(precisions: Sequence[str]) -> tuple[Gate, ...]:
    """That FP16 was not measured beside INT8, where it was not; nothing where it was, or nothing is INT8."""
    if "int8" not in precisions or "fp16" in precisions:
        return ()
    return (Gate("FP16 beside INT8", "measured in the same run", "not measured", "the bundle holds no FP16 file"),)
