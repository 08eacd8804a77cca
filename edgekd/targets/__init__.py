"""Deployment targets: values, and a look-up that helps with a misspelt name."""

from __future__ import annotations

from dataclasses import replace

from edgekd.errors import UsageError, did_you_mean
from edgekd.types import JetPack, Target

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
    description="x86-64 processor, onnxruntime, one thread",
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
_JETPACK6 = JetPack("6.1, 6.2", tensorrt="10.3", cuda="12.6", python="3.10")  # 6.0 has TensorRT 8, which is refused
_JETPACK7 = JetPack("7.0, 7.1", tensorrt="10.13", cuda="13.0", python="3.12")
_JETPACK72 = JetPack("7.2", tensorrt="10.16", cuda="13.2", python="3.12")
_ORIN_NANO = replace(
    _CUDA,
    name="jetson-orin-nano",
    description="Jetson Orin Nano, JetPack 6 or 7, TensorRT 10.3 or newer; 8 GB",
    jetpacks=(_JETPACK6, _JETPACK72),
    power_modes=("7W", "15W"),
)


def _board(name: str, description: str, power_modes: tuple[str, ...], dla: int = 0) -> Target:
    """Another module of the Orin family: the same files, built there."""
    return replace(_ORIN_NANO, name=name, description=description, power_modes=power_modes, dla=dla)


_BOARDS = (
    _ORIN_NANO,
    _board("jetson-orin-nano-4gb", "Jetson Orin Nano 4 GB", ("7W_AI", "7W_CPU", "10W")),
    _board("jetson-orin-nano-4gb-super", "Jetson Orin Nano 4 GB in its Super modes", ("10W", "25W", "MAXN_SUPER")),
    # 25W gives more inferences per joule than MAXN_SUPER (card 8.3)
    _board("jetson-orin-nano-super", "Jetson Orin Nano 8 GB in its Super modes", ("7W", "15W", "25W", "MAXN_SUPER")),
    _board(
        "jetson-orin-nx",
        "Jetson Orin NX 16 GB, also in its Super modes",
        ("10W", "15W", "25W", "MAXN", "40W", "MAXN_SUPER"),
        dla=2,
    ),
    _board(
        "jetson-orin-nx-8gb",
        "Jetson Orin NX 8 GB, also in its Super modes",
        ("10W", "15W", "20W", "MAXN", "40W", "MAXN_SUPER"),
        dla=1,
    ),
    _board(
        "jetson-agx-orin",
        "Jetson AGX Orin 32 or 64 GB",
        ("MODE_15W", "MODE_30W", "MODE_40W", "MODE_50W", "MAXN"),
        dla=2,
    ),
    replace(
        _ORIN_NANO,
        name="jetson-thor",
        description="Jetson Thor, JetPack 7, TensorRT 10.13 or newer",
        jetpacks=(_JETPACK7, _JETPACK72),
        power_modes=("120W", "MAXN"),
    ),
)

TARGETS: dict[str, Target] = {
    "cpu": _CPU,
    "cpu-arm64": replace(_CPU, name="cpu-arm64", description="64-bit Arm processor, onnxruntime, one thread"),
    "cuda": _CUDA,
    "jetson": replace(_ORIN_NANO, description="same as jetson-orin-nano: the smallest board, so all others keep up"),
    **{board.name: board for board in _BOARDS},
}


def get(name: str) -> Target:
    """The target of that name; raises UsageError naming the nearest one there is."""
    if name in TARGETS:
        return TARGETS[name]
    raise UsageError(f"There is no target {name!r}.{did_you_mean(name, TARGETS)} There are {', '.join(TARGETS)}.")
