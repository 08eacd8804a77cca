"""Which files of a bundle are measured by which runtime, and one open session on the bytes of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Sequence

import numpy as np

from . import bundle
from .errors import UsageError
from .latency import Clock
from .records import BundleManifest, Gate, StageRow
from .runtime import base

REFERENCE = "model.onnx"  # label flips are counted against it
HALF = "model.fp16.onnx"  # is always measured beside INT8 on a GPU
# Model file -> precision and the runtime that it is made for (None: any). A latency is quoted from no other.
FLAVOURS: dict[str, tuple[str, str | None]] = {
    "model.onnx": ("fp32", None),
    "model.fp16.onnx": ("fp16", None),
    "model.qdq.onnx": ("int8", "tensorrt"),
    "model.qdq.fp16.onnx": ("int8", "tensorrt"),
    "model.u8s8.onnx": ("int8", "onnxruntime"),
}


@dataclass
class Session:
    """One open model file and what was found out about it so far."""

    row: StageRow
    runner: base.Runner
    timed: bool
    predictions: np.ndarray | None = None
    blocks: list[np.ndarray] = field(default_factory=list)
    gpu_blocks: list[np.ndarray] = field(default_factory=list)  # ns, of the GPU alone
    queries: np.ndarray | None = None  # ns, of MultiStream
    steady: bool = True
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)  # of its answers and its engine


def chosen(contents: bundle.Bundle, runtime: str, files: Sequence[str] | None) -> tuple[str, ...]:
    """The model files to measure, the reference first, so that flips can be counted against it.

    On a GPU FP16 is measured beside INT8, asked for or not: which of the two is faster nobody knows before.
    """
    shipped = contents.manifest.model
    unknown = [name for name in files or () if name not in contents.models]
    if unknown:
        raise UsageError("The bundle holds no model {!r}; it holds: {}.".format(unknown[0], ", ".join(contents.models)))
    if runtime == "null":
        return (shipped,)
    suited = [name for name in contents.models if name == shipped or made_for(name) in (None, runtime)]
    names = set(files or suited)
    if (
        runtime == "tensorrt"
        and HALF in contents.models
        and any(precision_of(n, contents.manifest) == "int8" for n in names)
    ):
        names.add(HALF)
    return tuple(sorted(names, key=lambda name: (name != REFERENCE, name)))


def standing(contents: bundle.Bundle, runner: base.Runner) -> str:
    """The file that ships, or the one of its precision that stands for it where this version runs it as another."""
    manifest = contents.manifest
    own = (precision_of(manifest.model, manifest), made_for(manifest.model))
    alike = [name for name in contents.models if (precision_of(name, manifest), made_for(name)) == own]
    suited = [name for name in alike if name not in runner.foreign]
    return manifest.model if manifest.model not in runner.foreign or not suited else suited[0]


def precision_of(name: str, manifest: BundleManifest) -> str:
    return FLAVOURS[name][0] if name in FLAVOURS else manifest.precision


def made_for(name: str) -> str | None:
    return FLAVOURS[name][1] if name in FLAVOURS else None


def opened(
    contents: bundle.Bundle,
    name: str,
    runner: base.Runner,
    threads: int,
    probes: bundle.Probes,
    cold: dict[str, float],
    clock: Clock,
) -> Session:
    """A session on the bytes of one model file; ``cold`` gets its start-up times in milliseconds."""
    data, manifest = contents.model(name), contents.manifest
    with base.about(name):
        started = clock()
        runner.open(data, threads)
        ready = clock()
        logits = runner.infer(as_float(probes.images[:1]))
        answered = clock()
    cold[name + " open"], cold[name + " first inference"] = (ready - started) / 1e6, (answered - ready) / 1e6
    idle = runner.name == "null"
    if not idle and logits.shape != (1, manifest.num_classes):
        raise UsageError(
            f"{name} answers one image with the shape {logits.shape}, not (1, {manifest.num_classes}). "
            "Export the bundle again."
        )
    row = StageRow(
        stage=name,
        kind="stage",
        runtime=runner.name,
        precision=precision_of(name, manifest),
        sha256=next(entry.sha256 for entry in manifest.files if entry.name == name),
        size_bytes=len(data),
    )
    suited = made_for(name) in (None, runner.name) and name not in runner.foreign
    session = Session(row, runner, idle or suited)
    if idle:
        session.notes.append("nothing was computed: this is the time of the harness itself")
    if not session.timed:
        other = f", but not for {runner.name} {runner.version}" if name in runner.foreign else ""
        session.notes.append(f"latency not quoted: this file is made for {made_for(name)}{other}")
    return session


def as_float(images: np.ndarray) -> np.ndarray:
    """uint8 [N, C, H, W] as the model's input, float32 in [0, 1]."""
    found: np.ndarray = images.astype(np.float32) / np.float32(255)  # as torch divides, to the bit
    return found
