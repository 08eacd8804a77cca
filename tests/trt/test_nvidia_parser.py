"""NVIDIA's own parser and builder take every TensorRT file of every student, as it is meant, on a machine without a GPU.

Engines are built by the product's own code and recipe for a small board. What this proves: TensorRT 11's parser and its
strongly typed builder (TensorRT for RTX 1.7.1). TensorRT 10.3, 10.13 and 10.16 are not at hand; for them the tests of the
real bindings stand. One small network is held in the default run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bindings
import numpy as np
import pytest
import torch

from edgekd import models, targets
from edgekd.data import ImageSet
from edgekd.errors import UsageError
from edgekd.export.onnx import FLAVOURS, export
from edgekd.models.registry import resolve, usual_input
from edgekd.quantize import PtqConfig, ptq
from edgekd.types import Model, ModelSpec
from edgekd_device import graph_facts

RECIPE = {"typing": "strong", "flags": [], "max_batch": 64, "workspace": 256 << 20}  # of a board with 8 GB
FOR_TENSORRT = ("fp32", "fp16", "s8", "s8-fp16")
STUDENTS = sorted(
    {name for name, row in models.ARCHITECTURES.items() if row.family.student}
    | {name for target in targets.TARGETS.values() for name in target.default_students}
)
# of an FP16-typed file: its scales are FP16, the builder holds them in FP32; nothing is lost
HARMLESS = re.compile(r"\s*\(foreignNode\) Converting conv (activation|weight) scales to fp32\.")


@pytest.fixture(scope="session")
def build(libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, dict[str, Any]]]:
    """A function from ONNX files to what NVIDIA's libraries made of each, by file name."""

    folders = [bindings.wheel("11.4.0.106"), bindings.alias(tmp_path_factory.mktemp("alias"))]

    def run(*files: Path) -> dict[str, dict[str, Any]]:
        said = bindings.run(folders, libraries, bindings.HERE / "build_plans.py", *map(str, files))
        found = {value["file"]: value for value in map(json.loads, said.splitlines())}
        assert set(found) == {file.name for file in files}
        return found

    return run


def settled(model: Model, pixels: np.ndarray) -> Model:
    """The network with the statistics of its norms taken from the pictures: without, a deep one leaves FP16's range."""
    for module in model.module.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches seen, of which there is one
    model.module.train()
    with torch.no_grad():
        model.module(torch.from_numpy(pixels).float() / 255)
    model.module.eval()
    return model


@pytest.fixture
def export_all(tmp_path: Path) -> Callable[..., Iterator[dict[str, Path]]]:
    """A context with the files of an untrained network, quantised on made-up pictures: flavour -> file."""

    @contextmanager
    def made(arch: str, flavours: tuple[str, ...]) -> Iterator[dict[str, Path]]:
        inputs = usual_input(resolve(arch))
        noise = torch.rand(32, inputs.channels, 4, 4, generator=torch.Generator().manual_seed(1))
        smooth = torch.nn.functional.interpolate(noise, size=(inputs.height, inputs.width), mode="bicubic").clamp(0, 1)
        pixels = (smooth * 255).round().to(torch.uint8).numpy()
        pictures = ImageSet(pixels, np.arange(32, dtype=np.int64) % 10, tuple("0123456789"), "made up")
        twins = {"": settled(models.build(ModelSpec(arch, 10, inputs)), pixels)}
        files = {}
        for flavour in flavours:
            row = FLAVOURS[flavour]
            if row.quantizer not in twins:
                twins[row.quantizer] = ptq(twins[""], pictures, PtqConfig(flavour=row.quantizer, calibrator="max"))
            files[flavour] = tmp_path / row.file
            export(twins[row.quantizer], files[flavour], flavour, pixels[:8])
        yield files
        for file in files.values():
            file.unlink()  # a ResNet-50 in five flavours is 300 MB

    return made


def hold(arch, build, export_all):
    with export_all(arch, FOR_TENSORRT) as files:
        found = build(*files.values())
        for flavour, file in files.items():
            if FLAVOURS[flavour].quantizer:
                assert graph_facts.read(file.read_bytes()).quantised
    for name, made in found.items():
        assert (made["parsed"], made["errors"]) == (True, []), name
        assert made["plan_bytes"] > 1000, name
        assert made["recipe"] == RECIPE, name
        assert made["batch"] == -1, "the batch is free"
        assert [line for line in made["said"] if not HARMLESS.fullmatch(line)] == [], name


@pytest.mark.trt
def test_every_tensorrt_file_of_a_small_student_is_built(build, export_all):
    hold("resnet8-w4", build, export_all)


@pytest.mark.trt
@pytest.mark.slow
@pytest.mark.parametrize("arch", STUDENTS)
def test_every_tensorrt_file_of_every_student_is_built(arch, build, export_all):
    hold(arch, build, export_all)


@pytest.mark.trt
@pytest.mark.parametrize("arch", ["resnet8", "mobilenetv2"])
def test_what_we_refuse_for_tensorrt_is_what_nvidia_refuses(arch, build, export_all):
    with export_all(arch, ("u8s8",)) as files:
        (made,) = build(files["u8s8"]).values()
        with pytest.raises(UsageError, match="not quantised for TensorRT"):
            graph_facts.read(files["u8s8"].read_bytes())
    assert not made["parsed"]
    assert "DequantizeLinear" in made["errors"][0]  # of a bias in integers, or of a zero point that is not 0
    assert any("UINT8 zero_point" in line for line in made["said"])
