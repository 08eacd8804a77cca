"""Every flavour of every family: accepted by our own ONNX checker, close to torch, and named by some target."""

import itertools

import numpy as np
import pytest
import torch

from edgekd import models, targets
from edgekd.checkpoints import onnx_check, onnx_sizes
from edgekd.data import ImageSet
from edgekd.errors import UsageError
from edgekd.export.onnx import FLAVOURS, export
from edgekd.quantize import PtqConfig, ptq
from edgekd.types import InputSpec, ModelSpec, OnnxFile
from edgekd_device import graph_facts

# Norms that stay in every flavour; of the other small ones a file for each kind of integers.
NORMS_STAY, INTEGERS = "wrn-10-1", ("s8", "u8s8")
SMALL = ("resnet8", "smallvgg", "cnn3", "badnet-cnn")
ALL = (
    *("distiller-resnet8", "stripnet", "convpool-cifar", "wrn-16-1-layers", "preactresnet18", "resnet18"),
    *("mobilenetv2", "resnet18-224", "mobilenetv2-224"),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(arch, flavour) -> (OnnxFile, bytes, spec); each network is quantised once per kind of integers."""
    twins: dict = {}
    folder = tmp_path_factory.mktemp("exported")

    def get(arch: str, flavour: str):
        channels, side = (1, 28) if arch == "badnet-cnn" else (3, 224 if arch.endswith("-224") else 32)
        noise = torch.rand(32, channels, 4, 4, generator=torch.Generator().manual_seed(1))
        smooth = torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic").clamp(0, 1)
        images = (smooth * 255).round().to(torch.uint8).numpy()
        quantizer = FLAVOURS[flavour].quantizer
        if (arch, quantizer) not in twins:
            spec = ModelSpec(arch, 10, InputSpec(channels, side, side, (0.5,) * channels, (0.25,) * channels))
            model = models.build(spec)
            pictures = ImageSet(images, np.arange(32) % 10, tuple("0123456789"), "made up")
            config = PtqConfig(flavour=quantizer, calibrator="max") if quantizer else None
            twins[arch, quantizer] = ptq(model, pictures, config) if config else model
        model = twins[arch, quantizer]
        file = export(model, folder / f"{arch}.{FLAVOURS[flavour].file}", flavour, images[:8])
        with open(file.path, "rb") as stream:
            return file, stream.read(), model.spec

    return get


def hold(arch: str, flavour: str, exported) -> None:
    file, data, spec = exported(arch, flavour)
    graph, facts = onnx_check.read(data)
    plan, cost = onnx_sizes.plan(graph), models.cost(spec)
    assert plan.batches[-1] == 1
    assert cost.macs <= plan.macs <= 1.01 * cost.macs  # a norm that stays may be written as a convolution of 1 x 1
    assert facts["opset"] == file.opset == FLAVOURS[flavour].opset
    assert facts["operators"] == file.nodes
    assert file.top1_agreement.value >= (1.0 if flavour == "fp32" else 0.7)
    if FLAVOURS[flavour].precision == "int8":
        assert file.nodes["DequantizeLinear"] > file.nodes["Conv"] > 1
        norms = [line for line in file.float_layers if "batch norm" in line]
        assert list(file.float_layers) == norms, "only norms without a layer in front of them stay float"
    assert spec.num_classes == 10
    hold_for_tensorrt(flavour, data, file)


def hold_for_tensorrt(flavour: str, data: bytes, file: OnnxFile) -> None:
    """What the board reads of the same bytes before an engine is built."""
    if flavour == "u8s8":
        with pytest.raises(UsageError, match="UINT8 zero points"):
            graph_facts.read(data)
        return
    found = graph_facts.read(data)
    assert found.half == ("fp16" in flavour)
    assert found.quantised == (FLAVOURS[flavour].precision == "int8")
    if found.quantised:
        assert found.int8_layers == found.layers == sum(file.nodes.get(kind, 0) for kind in graph_facts.LAYERS)


@pytest.mark.parametrize(
    ("arch", "flavour"), [*itertools.product([NORMS_STAY], FLAVOURS), *itertools.product(SMALL, INTEGERS)]
)
def test_flavours_of_small_networks(arch, flavour, exported):
    hold(arch, flavour, exported)


@pytest.mark.slow
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arch", [*SMALL, *ALL])
def test_every_flavour_of_every_family(arch, flavour, exported):
    hold(arch, flavour, exported)


@pytest.mark.parametrize("target", targets.TARGETS)
def test_every_file_that_a_target_asks_for_has_a_flavour(target):
    made = {row.file for row in FLAVOURS.values()}
    assert set(targets.get(target).files) <= made


@pytest.mark.parametrize("target", targets.TARGETS)
def test_every_default_student_is_in_the_zoo(target):
    assert set(targets.get(target).default_students) <= set(models.ARCHITECTURES)
