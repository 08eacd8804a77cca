"""The files for TensorRT of an untrained student, and what NVIDIA's libraries make of them: for the tests and benchmarks/nvidia.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bindings
import numpy as np
import torch

from edgekd import models, targets
from edgekd.data import ImageSet
from edgekd.export.onnx import FLAVOURS, export
from edgekd.models.registry import resolve, usual_input
from edgekd.quantize import PtqConfig, ptq
from edgekd.types import Model, ModelSpec

VERSION = "11.4.0.106"  # of the bindings
RECIPE = {"typing": "strong", "flags": [], "max_batch": 64, "workspace": 768 << 20}  # of a board with 4 GB
FOR_TENSORRT = ("fp32", "fp16", "s8", "s8-fp16")
STUDENTS = sorted(
    {name for name, row in models.ARCHITECTURES.items() if row.family.student}
    | {name for target in targets.TARGETS.values() for name in target.default_students}
)
# of an FP16-typed file: its scales are FP16, the builder holds them in FP32; nothing is lost
HARMLESS = re.compile(r"\s*\(foreignNode\) Converting conv (activation|weight) scales to fp32\.")
LINKS = {
    "libnvinfer.so.11": "libtensorrt_rtx.so.1.7.1",
    "libtensorrt_rtx.so.1": "libtensorrt_rtx.so.1.7.1",
    "libnvonnxparser.so.11": "libtensorrt_onnxparser_rtx.so.1.7.1",
    "libtensorrt_onnxparser_rtx.so.1": "libtensorrt_onnxparser_rtx.so.1.7.1",
}


def libraries(folder: Path) -> Path:
    """A folder for LD_LIBRARY_PATH: TensorRT for RTX under the names that the bindings of TensorRT 11.4 ask for.

    NVIDIA does not support this pair: it works because both have one layout, so what uses it runs in a process of its own.
    """
    home = bindings.wheel("rtx") / "onnxruntime_ep_nv_tensorrt_rtx"
    made = bindings.stubs(folder, "11", "nvinfer_plugin")
    for name, target in LINKS.items():
        (made / name).symlink_to(home / target)
    return made


def built(files: list[Path], loaded: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What NVIDIA's ``loaded`` libraries made of ONNX files, by file name."""
    folders = [bindings.wheel(VERSION), bindings.alias(folder)]
    said = bindings.run(folders, loaded, bindings.HERE / "build_plans.py", *map(str, files))
    found = {value["file"]: value for value in map(json.loads, said.splitlines())}
    assert set(found) == {file.name for file in files}
    return found


@contextmanager
def exported(
    arch: str, flavours: tuple[str, ...], folder: Path, keep_float: tuple[str, ...] = ()
) -> Iterator[dict[str, Path]]:
    """The files of an untrained network, quantised on made-up pictures but for some layers: flavour -> file."""
    inputs = usual_input(resolve(arch))
    noise = torch.rand(32, inputs.channels, 4, 4, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(noise, size=(inputs.height, inputs.width), mode="bicubic").clamp(0, 1)
    pixels = (smooth * 255).round().to(torch.uint8).numpy()
    pictures = ImageSet(pixels, np.arange(32, dtype=np.int64) % 10, tuple("0123456789"), "made up")
    twins = {"": _settled(models.build(ModelSpec(arch, 10, inputs)), pixels)}
    files = {}
    for flavour in flavours:
        row = FLAVOURS[flavour]
        if row.quantizer not in twins:
            config = PtqConfig(flavour=row.quantizer, calibrator="max", keep_float=keep_float)
            twins[row.quantizer] = ptq(twins[""], pictures, config)
        files[flavour] = folder / row.file
        export(twins[row.quantizer], files[flavour], flavour, pixels[:8])
    yield files
    for file in files.values():
        file.unlink()  # a ResNet-50 in five flavours is 300 MB


def _settled(model: Model, pixels: np.ndarray) -> Model:
    """The network with the statistics of its norms taken from the pictures: without, a deep one leaves FP16's range."""
    for module in model.module.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches seen, of which there is one
    model.module.train()
    with torch.no_grad():
        model.module(torch.from_numpy(pixels).float() / 255)
    model.module.eval()
    return model


def faults(made: dict[str, Any]) -> list[str]:
    """What speaks against a file that was to be parsed and built: errors, warnings, another recipe, a batch that is not free."""
    found = list(made["errors"]) + [line for line in made["said"] if not HARMLESS.fullmatch(line)]
    found += [] if made["parsed"] else ["not parsed"]
    found += [] if made["plan_bytes"] > 1000 else ["no engine"]
    found += [] if made.get("recipe") == RECIPE else [f"built by {made.get('recipe')}"]
    return found + ([] if made["batch"] == -1 else ["the batch is not free"])
