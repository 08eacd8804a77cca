"""TensorRT engines of a real student: ACC, ASR, latency, and whether they answer as the host does on the same files.

    python -m benchmarks.engines        on a machine with an NVIDIA GPU and TensorRT 10.3 or newer (python3 -m pip install tensorrt)

A third-party network goes into a bundle for a GPU with the whole test set. `run` builds an engine from every TensorRT
file and measures it; onnxruntime computes the same files on the processor. Bars, per engine (card 11.3): the host's
label on at least 99 % of the images, ACC within 0.5 points of the host's, ASR at most 1 point above it; and a valid
report.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import platforms
from benchmarks.attacks import STRANGER
from benchmarks.grid import Config, Table, main
from edgekd_device import bundle, harness
from edgekd_device.metrics import Rate
from edgekd_device.records import StageRow
from edgekd_device.runtime import base, trt_build
from edgekd_device.session import as_float

AGREEMENT, ACC_APART, ASR_ABOVE = 0.99, 0.005, 0.01
BATCH = 50
BACKDOORED = {
    "network": "cifar10_wrn16-1_abl_grid_t0.tar",
    "trigger": "cifar10_wrn16-1_abl_grid_t0.trigger.npz",
}


def cells() -> Iterator[Config]:
    """The quick ones first, which say whether engines are built and right; what they take is told by the others."""
    for level in ("smoke", "standard"):
        for network in (BACKDOORED, {"network": STRANGER, "trigger": None}):
            yield {**network, "target": "cuda", "images": 10_000, "level": level}


def run(config: Config, folder: Path) -> dict[str, Any]:
    trt_build.library()  # where there is none, that is said before anything is made
    made = folder / "bundle"
    if not (made / "manifest.json").exists():
        shutil.rmtree(made, ignore_errors=True)
        platforms.make_bundle(config, made)
    return measured(made, config["level"])


def measured(folder: Path, level: str) -> dict[str, Any]:
    """Every file for TensorRT in the bundle ``folder``, as an engine and on the host."""
    report = harness.run(folder, level=level, runtime="tensorrt")
    names = [row.stage for row in report.rows]
    host = {row.stage: row for row in harness.run(folder, runtime="onnxruntime", files=names).rows}
    contents = bundle.read(folder)
    found = {row.stage: beside(row, host[row.stage], contents) for row in report.rows}
    return {
        "valid": report.valid,
        "invalid_reasons": list(report.invalid_reasons),
        "tensorrt": next((row.engine["tensorrt"] for row in report.rows if row.engine), None),
        "gates": [f"{gate.name}: {gate.verdict}, {gate.found}" for gate in report.gates],
        "files": found,
        "passed": report.valid and bool(found) and all(file["passed"] for file in found.values()),
    }


def beside(engine: StageRow, host: StageRow, contents: bundle.Bundle) -> dict[str, Any]:
    """One engine's figures next to the host's of the same file."""
    here, there = (logits(contents, engine.stage, runtime) for runtime in ("tensorrt", "onnxruntime"))
    agreement = Rate(int((here.argmax(1) == there.argmax(1)).sum()), len(here))
    times = {"e2e": engine.latency, "gpu": engine.gpu}
    triggers = zip(engine.triggers, host.triggers, strict=True)
    return {
        "precision": engine.precision,
        "acc": rates(engine.acc, host.acc),
        "asr": {ours.trigger: rates(ours.asr, theirs.asr) for ours, theirs in triggers},
        "agreement": agreement.to_json(),
        "largest_difference": float(np.abs(here - there).max()),
        "ms": {name: None if time is None else time.to_json() for name, time in times.items()},
        "engine": engine.engine,
        "notes": list(engine.notes),
        "passed": near(engine, host, agreement),
    }


def rates(engine: Rate | None, host: Rate | None) -> dict[str, Any]:
    return {kind: None if rate is None else rate.to_json() for kind, rate in (("engine", engine), ("host", host))}


def near(engine: StageRow, host: StageRow, agreement: Rate) -> bool:
    """Whether the engine is the model that the host measured."""
    if engine.acc is None or host.acc is None:
        return False
    rises = [ours.asr.value - theirs.asr.value for ours, theirs in zip(engine.triggers, host.triggers, strict=True)]
    apart = abs(engine.acc.value - host.acc.value)
    return agreement.value >= AGREEMENT and apart <= ACC_APART and all(rise <= ASR_ABOVE for rise in rises)


def logits(contents: bundle.Bundle, name: str, runtime: str) -> np.ndarray:
    """Float32 [N, K] of one model file on the clean probe images."""
    images = bundle.probes(contents).images
    runner = base.make(runtime, base.Settings(name))
    try:
        runner.open(contents.model(name), contents.manifest.threads)
        parts = [runner.infer(as_float(images[start : start + BATCH])) for start in range(0, len(images), BATCH)]
    finally:
        runner.close()
    return np.concatenate(parts)


def forecast(config: Config) -> float:
    return 5.0 if config["level"] == "smoke" else 40.0


TABLE = Table("engines", cells, run, forecast)

if __name__ == "__main__":
    sys.exit(main(TABLE))
