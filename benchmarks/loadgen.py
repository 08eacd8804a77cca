"""Our SingleStream against MLPerf LoadGen's, over one onnxruntime session, in alternating blocks.

    python -m benchmarks.loadgen            the table's cells, records in results/loadgen/; on a quiet machine

LoadGen is MLCommons' own traffic generator (mlcommons-loadgen on PyPI, fetched into .cache/). Both ask the same runner
for the same inputs, one at a time, the next when one is answered. Python collects no garbage during a block of either.
Bar: the medians over the blocks of p50 and of p90 differ by at most 2 %, or by no more than LoadGen's own blocks
differ among themselves; p99 is reported.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.grid import Config, Table, main
from benchmarks.packages import aside
from edgekd_device import latency
from edgekd_device.metrics import percentile
from edgekd_device.runtime import base

PACKAGE = "mlcommons-loadgen==6.0.17"
SHARE = 0.02
INPUTS = 64
PERCENTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
SUMMARY = "mlperf_log_summary.txt"
Block = dict[str, float]  # milliseconds by percentile


def cells() -> Iterator[Config]:
    for arch in ("resnet8", "resnet18"):
        yield {"arch": arch, "threads": 1, "blocks": 5, "seconds": 20.0}


def run(config: Config, folder: Path) -> dict[str, Any]:
    from edgekd import models
    from edgekd.export import onnx as onnx_writer
    from edgekd.types import InputSpec, ModelSpec

    spec = ModelSpec(config["arch"], 10, InputSpec(3, 32, 32, (0.5,) * 3, (0.25,) * 3))
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), np.uint8)
    made = onnx_writer.export(models.build(spec, seed=0), folder / "model.onnx", "fp32", images)
    return measure(Path(made.path), config, folder)


def measure(model: Path, config: Config, folder: Path) -> dict[str, Any]:
    """``blocks`` of ``seconds`` of either kind in the order A B B A, after one of each that does not count."""
    loadgen = fetched()
    runner = base.make("onnxruntime")
    runner.open(model.read_bytes(), config["threads"])
    random = np.random.default_rng(0)
    inputs = [random.random((1, 3, 32, 32), np.float32) for _ in range(INPUTS)]
    found: dict[str, list[Block]] = {"ours": [], "loadgen": []}
    for turn in range(-2, 2 * config["blocks"]):
        kind = "ours" if turn % 4 in (0, 3) else "loadgen"
        if kind == "ours":
            block = ours(runner, inputs, config["seconds"])
        else:
            block = theirs(loadgen, runner, inputs, config["seconds"], folder)
        if turn >= 0:
            found[kind].append(block)
    runner.close()
    return judged(found)


def ours(runner: base.Runner, inputs: list[np.ndarray], seconds: float) -> Block:
    """One block of the device harness."""
    times = np.sort(latency.timed_block(runner.infer, inputs, seconds, 1, time.perf_counter_ns))
    return {name: percentile(times, share) / 1e6 for name, share in PERCENTILES.items()} | {"count": float(len(times))}


def theirs(loadgen: Any, runner: base.Runner, inputs: list[np.ndarray], seconds: float, folder: Path) -> Block:
    """One block of LoadGen's SingleStream, read from its summary."""

    def issue(queries: Any) -> None:
        for query in queries:
            runner.infer(inputs[query.index])
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query.id, 0, 0)])

    settings, logs = loadgen.TestSettings(), loadgen.LogSettings()
    settings.scenario, settings.mode = loadgen.TestScenario.SingleStream, loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = int(1000 * seconds), latency.min_queries(1, 0.99)
    # Queries are made beforehand, as many as this latency asks for: with too few of them a block ends early.
    settings.single_stream_expected_latency_ns = 50_000
    logs.log_output.outdir, logs.enable_trace = str(folder), False
    system = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(len(inputs), len(inputs), lambda _: None, lambda _: None)
    try:
        with latency.uncollected():  # as in a block of ours: else it would be in one side's p90 alone
            loadgen.StartTestWithLogSettings(system, library, settings, logs)
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
    return summary((folder / SUMMARY).read_text("utf-8"))


def summary(text: str) -> Block:
    """Percentiles in milliseconds of a LoadGen summary, which does not say how many queries there were; raises ValueError for an invalid run."""
    if "Result is : VALID" not in text:
        raise ValueError(f"LoadGen calls its run invalid:\n{text[:800]}")
    found = dict(re.findall(r"^([\d.]+) percentile latency \(ns\)\s*: (\d+)", text, re.MULTILINE))
    return {name: int(found[f"{100 * share:.2f}"]) / 1e6 for name, share in PERCENTILES.items()}


def judged(found: dict[str, list[Block]]) -> dict[str, Any]:
    """Medians over the blocks, and whether p50 and p90 are as near as the bar asks."""
    medians: dict[str, dict[str, float]] = {}
    differences, allowed = {}, {}
    for name in PERCENTILES:
        values = [block[name] for block in found["loadgen"]]
        medians[name] = {kind: statistics.median(block[name] for block in blocks) for kind, blocks in found.items()}
        differences[name] = medians[name]["ours"] / medians[name]["loadgen"] - 1
        allowed[name] = max(SHARE, (max(values) - min(values)) / statistics.median(values))
    return {
        "ms": medians,
        "difference": differences,
        "allowed": allowed,
        "blocks": found,
        "passed": all(abs(differences[name]) <= allowed[name] for name in ("p50", "p90")),
    }


def fetched() -> Any:
    """LoadGen's module, put into .cache/ where it is not; raises EnvironmentFault where it cannot be had."""
    sys.path.append(str(aside("loadgen", PACKAGE, options=("--only-binary=:all:",))))
    import mlperf_loadgen

    return mlperf_loadgen


def forecast(config: Config) -> float:
    return float((2 * config["blocks"] + 2) * config["seconds"] / 60 + 0.5)


if __name__ == "__main__":
    sys.exit(main(Table("loadgen", cells, run, forecast)))
