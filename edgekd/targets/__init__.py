"""Deployment targets: values, and a look-up that helps with a misspelt name."""

from __future__ import annotations

from dataclasses import replace

from edgekd.errors import UsageError, did_you_mean
from edgekd.types import Target

# largest first; networks that normalise in front of their layers are left out: nothing to fold those norms into
_SMALL = (
    *("resnet18", "mobilenetv2", "resnet56", "resnet44", "resnet32", "resnet20", "resnet20-w12"),
    *("resnet14", "resnet14-w12", "resnet14-w8", "resnet8", "resnet8-w12", "resnet8-w8", "resnet8-w6", "resnet8-w4"),
)
_STUDENTS = (*_SMALL, "resnet50-224", "resnet34-224", "resnet18-224", "mobilenetv2-224")

_CPU = Target(
    name="cpu",
    runtime="onnxruntime",
    ships="model.u8s8.onnx",
    files=("model.onnx", "model.u8s8.onnx"),
    precision="int8",
    default_students=_STUDENTS,
    description="x86-64 or Arm processor, onnxruntime, one thread",
)
_CUDA = Target(
    name="cuda",
    runtime="tensorrt",
    ships="model.qdq.onnx",
    # model.u8s8.onnx is what the host's own processor can time before a board is at hand
    files=("model.onnx", "model.fp16.onnx", "model.qdq.onnx", "model.qdq.fp16.onnx", "model.u8s8.onnx"),
    precision="int8",
    default_students=_STUDENTS,
    description="NVIDIA GPU in a PC or server, TensorRT 10 or newer",
)
_ORIN_NANO = replace(
    _CUDA, name="jetson-orin-nano", description="Jetson Orin Nano, JetPack 6 or 7, TensorRT 10.3 or newer"
)

TARGETS: dict[str, Target] = {
    "cpu": _CPU,
    "cuda": _CUDA,
    "jetson": replace(
        _ORIN_NANO, description="the same as jetson-orin-nano: the smallest board, so all others keep up"
    ),
    "jetson-orin-nano": _ORIN_NANO,
    "jetson-orin-nx": replace(_ORIN_NANO, name="jetson-orin-nx", description="Jetson Orin NX, JetPack 6 or 7"),
    "jetson-agx-orin": replace(_ORIN_NANO, name="jetson-agx-orin", description="Jetson AGX Orin, JetPack 6 or 7"),
    "jetson-thor": replace(
        _ORIN_NANO, name="jetson-thor", description="Jetson Thor, JetPack 7, TensorRT 10.13 or newer"
    ),
}


def get(name: str) -> Target:
    """The target of that name; raises UsageError naming the nearest one there is."""
    if name in TARGETS:
        return TARGETS[name]
    raise UsageError(f"There is no target {name!r}.{did_you_mean(name, TARGETS)} There are {', '.join(TARGETS)}.")
