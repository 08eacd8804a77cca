"""INT8 against FP32 on onnxruntime CPU: our U8S8 file beside onnxruntime's own quantiser's, interleaved in one run.

    python -m benchmarks.int8_speed            the table's cells, records in results/int8_speed/

Bars, for the CIFAR-10 ResNet-18 on one thread: our p50 at least 3 times faster than FP32, and within 5 % of the faster
of onnxruntime's two U8S8 files (weights per channel as ours, and per tensor, its default). Weights are untrained, as
speed does not depend on them. The other networks show where INT8 gains less.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks import prepare_data, quantisers
from benchmarks.grid import Config, Table, main
from edgekd import data, models
from edgekd.export.onnx import export
from edgekd.quantize import PtqConfig, ptq
from edgekd.types import InputSpec, ModelSpec
from edgekd_device.metrics import percentile
from edgekd_device.runtime.ort import DISABLED

SPEED_UP, SLOWER = 3.0, 1.05
CALIBRATION = 256
KINDS = ("fp32", "ours", "onnxruntime per channel", "onnxruntime per tensor")


def cells() -> Iterator[Config]:
    for arch in ("resnet18", "resnet20", "wrn-16-1", "mobilenetv2"):
        yield {"arch": arch, "threads": 1, "rounds": 40, "seconds": 0.25}


def run(config: Config, folder: Path) -> dict[str, Any]:
    images = data.load(prepare_data.prepare("cifar10_test")).subset(np.arange(CALIBRATION))
    spec = ModelSpec(config["arch"], 10, InputSpec(3, 32, 32, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)))
    model = models.build(spec, seed=0)
    paths = {kind: folder / f"{kind.replace(' ', '-')}.onnx" for kind in KINDS}
    export(model, paths["fp32"], "fp32", images.images)
    export(ptq(model, images, PtqConfig(images=CALIBRATION)), paths["ours"], "u8s8", images.images)
    for kind, per_channel in ((KINDS[2], True), (KINDS[3], False)):
        quantisers.onnxruntime(paths["fp32"], paths[kind], images.images, "u8s8", "max", per_channel)
    inputs = [image[None].astype(np.float32) / 255 for image in images.images[:64]]
    found = measure({kind: session(path, config["threads"]) for kind, path in paths.items()}, inputs, config)
    return {**found, **noise(paths, images.images), "kernels": {k: kernels(p, folder) for k, p in paths.items()}}


def session(path: Path, threads: int, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    """As the product opens it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED
    )


def kernels(path: Path, folder: Path) -> dict[str, int]:
    """What onnxruntime runs once it has optimised the graph: the proof that layers run on integers."""
    session(path, 1, folder / "optimised.onnx")
    nodes = onnx.load(folder / "optimised.onnx").graph.node
    return dict(sorted(Counter(node.op_type for node in nodes).items()))


def measure(
    sessions: dict[str, onnxruntime.InferenceSession], inputs: list[np.ndarray], config: Config
) -> dict[str, Any]:
    """p50 of every session over ``rounds`` blocks of ``seconds``, taken in turn, the order turned round every time."""
    times: dict[str, list[np.ndarray]] = {kind: [] for kind in sessions}
    for turn in range(-1, config["rounds"]):  # the first turn warms up
        order = list(sessions) if turn % 2 else list(reversed(sessions))
        for kind in order:
            block = timed(sessions[kind], inputs, config["seconds"])
            if turn >= 0:
                times[kind].append(block)
    p50 = {kind: percentile(np.sort(np.concatenate(blocks)), 0.5) * 1e3 for kind, blocks in times.items()}
    by_block = {kind: [float(np.median(block)) * 1e3 for block in blocks] for kind, blocks in times.items()}
    best = min(p50[kind] for kind in p50 if kind.startswith("onnxruntime"))
    return {
        "p50_ms": p50,
        "block_p50_ms": by_block,
        "samples": {kind: sum(map(len, blocks)) for kind, blocks in times.items()},
        "speed_up": p50["fp32"] / p50["ours"],
        "ours_over_onnxruntime": p50["ours"] / best,
        "passed": p50["fp32"] / p50["ours"] >= SPEED_UP and p50["ours"] <= SLOWER * best,
    }


def timed(runner: onnxruntime.InferenceSession, inputs: list[np.ndarray], seconds: float) -> np.ndarray:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        runner.run(["logits"], {"input": inputs[len(times) % len(inputs)]})
        times.append(time.perf_counter() - start)
    return np.asarray(times)


def noise(paths: dict[str, Path], images: np.ndarray) -> dict[str, Any]:
    """Signal-to-noise ratio of the logits against FP32, in dB, and the size of the files."""
    batch = images[:200].astype(np.float32) / 255
    logits = {kind: session(path, 1).run(["logits"], {"input": batch})[0] for kind, path in paths.items()}
    exact = logits.pop("fp32")
    ratio = {k: float(10 * np.log10(np.square(exact).sum() / np.square(v - exact).sum())) for k, v in logits.items()}
    return {"sqnr_db": ratio, "bytes": {kind: path.stat().st_size for kind, path in paths.items()}}


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # onnxruntime's quantiser warns about everything it does
    sys.exit(main(Table("int8_speed", cells, run, lambda config: 1 + config["rounds"] * config["seconds"] * 4 / 60)))
