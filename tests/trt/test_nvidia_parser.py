"""NVIDIA's own parser and builder take every TensorRT file of every student, as it is meant, on a machine without a GPU.

Engines are built by the product's own code and recipe for the smallest board. What this proves: TensorRT 11's parser and its
strongly typed builder (TensorRT for RTX 1.7.1). TensorRT 10.3, 10.13 and 10.16 are not at hand; for them the tests of the
real bindings stand. One small network is held in the default run; benchmarks/nvidia.py keeps a record of all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from student_files import FOR_TENSORRT, STUDENTS, built, exported, faults

from edgekd.errors import UsageError
from edgekd.export.onnx import FLAVOURS
from edgekd_device import graph_facts


@pytest.fixture(scope="session")
def build(libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, dict[str, Any]]]:
    """A function from ONNX files to what NVIDIA's libraries made of each, by file name."""
    folder = tmp_path_factory.mktemp("alias")
    return lambda *files: built(list(files), libraries, folder)


def hold(arch, build, folder, flavours=FOR_TENSORRT, keep_float=()):
    with exported(arch, flavours, folder, keep_float) as files:
        found = build(*files.values())
        for flavour, file in files.items():
            if FLAVOURS[flavour].quantizer:
                assert graph_facts.read(file.read_bytes()).quantised
    assert {name: faults(made) for name, made in found.items()} == {name: [] for name in found}


@pytest.mark.trt
def test_every_tensorrt_file_of_a_small_student_is_built(build, tmp_path):
    hold("resnet8-w4", build, tmp_path)


@pytest.mark.trt
def test_layers_that_the_guard_leaves_float_are_no_trouble(build, tmp_path):
    """The first and a residual block's, beside layers in INT8."""
    hold("resnet8-w4", build, tmp_path, ("s8", "s8-fp16"), ("net.conv1", "net.layer2.0.conv2"))


@pytest.mark.trt
@pytest.mark.slow
@pytest.mark.parametrize("arch", STUDENTS)
def test_every_tensorrt_file_of_every_student_is_built(arch, build, tmp_path):
    hold(arch, build, tmp_path)


@pytest.mark.trt
@pytest.mark.parametrize("arch", ["resnet8", "mobilenetv2"])
def test_what_we_refuse_for_tensorrt_is_what_nvidia_refuses(arch, build, tmp_path):
    with exported(arch, ("u8s8",), tmp_path) as files:
        (made,) = build(files["u8s8"]).values()
        with pytest.raises(UsageError, match="not quantised for TensorRT"):
            graph_facts.read(files["u8s8"].read_bytes())
    assert not made["parsed"]
    assert "DequantizeLinear" in made["errors"][0]  # of a bias in integers, or of a zero point that is not 0
    assert any("UINT8 zero_point" in line for line in made["said"])
    assert {"not parsed", "no engine"} <= set(faults(made))
