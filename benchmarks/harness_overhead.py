"""What the device harness adds to an inference: its p50 against a bare onnxruntime loop, interleaved in the same run.

    python -m benchmarks.harness_overhead            the table's cells, records in results/harness_overhead/

Bar: within 1 % or 20 microseconds, whichever is larger. Each loop has its own session on the same bytes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.grid import Config, Table, main
from edgekd_device import latency
from edgekd_device.metrics import percentile
from edgekd_device.runtime import base

SHARE, MICROSECONDS = 0.01, 20.0
WARM_SECONDS = 1.0
INPUTS = 64


def measure(onnx_path: Path | str, *, blocks: int = 40, seconds: float = 0.5, threads: int = 1) -> dict[str, Any]:
    """p50 in microseconds of both loops over ``blocks`` of ``seconds`` each, in the order A B B A; batch 1."""
    model = Path(onnx_path).read_bytes()
    runner = base.make("onnxruntime")
    runner.open(model, threads)
    session = _bare_session(model, threads)
    shape = [1, *session.get_inputs()[0].shape[1:]]
    random = np.random.default_rng(0)
    inputs = [random.random(shape, np.float32) for _ in range(INPUTS)]
    found: dict[str, list[np.ndarray]] = {"harness": [], "bare": []}
    for block in range(-2, 2 * blocks):
        ours = block % 4 in (0, 3)
        length = WARM_SECONDS if block < 0 else seconds
        if ours:
            times = latency.timed_block(runner.infer, inputs, length, 1, time.perf_counter_ns)
        else:
            times = _bare_block(session, inputs, length)
        if block >= 0:
            found["harness" if ours else "bare"].append(times)
    runner.close()
    return _compare(found, blocks, seconds, threads)


def _bare_session(model: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _bare_block(session: Any, inputs: list[np.ndarray], seconds: float) -> np.ndarray:
    """What anyone would write in five lines."""
    name = session.get_inputs()[0].name
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        session.run(None, {name: inputs[len(times) % len(inputs)]})
        times.append(time.perf_counter() - start)
    return np.asarray(times) * 1e9


def _compare(found: dict[str, list[np.ndarray]], blocks: int, seconds: float, threads: int) -> dict[str, Any]:
    pooled = {name: percentile(np.sort(np.concatenate(parts)), 0.5) / 1e3 for name, parts in found.items()}
    medians = {name: [float(np.median(part)) / 1e3 for part in parts] for name, parts in found.items()}
    overhead = pooled["harness"] - pooled["bare"]
    allowed = max(MICROSECONDS, SHARE * pooled["bare"])
    return {
        "p50_us": pooled,
        "block_p50_us": medians,
        "samples": {name: sum(map(len, parts)) for name, parts in found.items()},
        "overhead_us": overhead,
        "overhead_share": overhead / pooled["bare"],
        "allowed_us": allowed,
        "passed": abs(overhead) <= allowed,
        "blocks": blocks,
        "seconds": seconds,
        "threads": threads,
    }


def cells() -> list[Config]:
    """A network of well under a millisecond, where a fixed cost shows most, and one of several."""
    return [{"arch": arch, "threads": 1, "blocks": 40, "seconds": 0.5} for arch in ("resnet8", "resnet18")]


def run(config: Config, folder: Path) -> dict[str, Any]:
    from edgekd import models  # here, so that `measure` needs onnxruntime alone
    from edgekd.export import onnx as onnx_writer
    from edgekd.types import InputSpec, ModelSpec

    spec = ModelSpec(config["arch"], 10, InputSpec(3, 32, 32, (0.5,) * 3, (0.25,) * 3))
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), np.uint8)
    made = onnx_writer.export(models.build(spec, seed=0), folder / "model.onnx", "fp32", images)
    return measure(made.path, blocks=config["blocks"], seconds=config["seconds"], threads=config["threads"])


if __name__ == "__main__":
    sys.exit(main(Table("harness_overhead", cells, run, lambda config: 2 * config["blocks"] * config["seconds"] / 60)))
