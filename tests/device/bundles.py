"""A tiny bundle with real ONNX files: an image's class is its brightest channel; the trigger brightens channel 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.export import bundle as writer
from edgekd.types import (
    InputSpec,
    ModelSpec,
    OnnxFile,
    ProbeSet,
    Rate,
    StageRow,
    Target,
    TriggeredImages,
    TriggerScore,
)
from edgekd_device import files

COUNT, CLASSES = 30, ("red", "green", "blue")
HASH = "0" * 64


def graph(
    *, quantised: bool = False, classes: int = 3, scale: float = 10.0, weights: np.ndarray | None = None
) -> bytes:
    """Mean per channel times ``scale``, as ONNX: [N, 3, 8, 8] -> [N, classes]."""
    weights = scale * np.eye(3, classes, dtype=np.float32) if weights is None else weights
    nodes, source = [], "input"
    constants = {"weights": weights}
    if quantised:
        constants.update({"step": np.float32(1 / 127), "zero": np.int8(0)})  # symmetric: TensorRT takes no other
        nodes += [
            helper.make_node("QuantizeLinear", ["input", "step", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
        ]
        source = "d"
    nodes += [
        helper.make_node("GlobalAveragePool", [source], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def probe_set() -> ProbeSet:
    random = np.random.RandomState(0)
    labels = np.arange(COUNT, dtype=np.int64) % 3
    images = random.randint(0, 100, (COUNT, 3, 8, 8)).astype(np.uint8)
    images[np.arange(COUNT), labels] += 100
    positions = np.flatnonzero(labels != 0)
    triggered = images[positions].copy()
    triggered[:, 0] = 255
    attacker = np.zeros(len(positions), np.int64)
    return ProbeSet(images, labels, (TriggeredImages("bright", "known", triggered, positions, attacker, HASH),), HASH)


def onnx_file(folder: Path, name: str, data: bytes) -> OnnxFile:
    files.write_bytes(folder / name, data)
    return OnnxFile(str(folder / name), "any", files.sha256_bytes(data), len(data), 18, 0.0, Rate(1, 1))


TARGET = Target(
    "cpu", "onnxruntime", "model.u8s8.onnx", ("model.onnx", "model.u8s8.onnx"), "int8", ("resnet8",), threads=1
)


def reference(name: str, precision: str) -> StageRow:
    """What the host found: all clean images right, all 20 triggered ones turned."""
    scores = (TriggerScore("bright", "known", Rate(20, 20), Rate(0, 20), Rate(0, 20)),)
    return StageRow(name, "stage", "onnxruntime", precision, HASH, Rate(COUNT, COUNT), scores, seconds=1.25)


def write_bundle(folder: Path, models: dict[str, bytes] | None = None, **changes: Any) -> Path:
    """A bundle in ``folder``/bundle; ``changes`` replace arguments of the writer."""
    models = models or {"model.onnx": graph(), "model.u8s8.onnx": graph(quantised=True)}
    arguments: dict[str, Any] = {
        "target": TARGET,
        "spec": ModelSpec("resnet8", 3, InputSpec(3, 8, 8, (0.5,) * 3, (0.25,) * 3)),
        "class_names": CLASSES,
        "onnx": [onnx_file(folder / "exported", name, data) for name, data in models.items()],
        "probes": probe_set(),
        "floors": {"bright": Rate(1, 20), "never": Rate(0, 1)},
        "teacher_sha256": "a" * 64,
        "student_sha256": "b" * 64,
        "references": {
            "model.onnx": reference("model.onnx", "fp32"),
            "model.u8s8.onnx": reference("model.u8s8.onnx", "int8").to_json(),
        },
        **changes,
    }
    labels = arguments["probes"].labels
    arguments.setdefault("answers", dict.fromkeys(arguments["references"], labels))  # the host called all of them right
    writer.write(folder / "bundle", **arguments)
    return folder / "bundle"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest's JSON in place."""
    value = json.loads((folder / "manifest.json").read_text())
    change(value)
    (folder / "manifest.json").write_text(json.dumps(value))


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Give a file other bytes and list them in the manifest, as one who can forge the whole bundle would."""
    (folder / name).write_bytes(data)

    def relist(manifest: dict[str, Any]) -> None:
        for entry in manifest["files"]:
            if entry["name"] == name:
                entry.update(bytes=len(data), sha256=files.sha256_bytes(data))

    edit(folder, relist)
