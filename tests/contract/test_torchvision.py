"""torchvision's families as --arch torchvision.models:NAME: quantised, exported, and the file says what its twin says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd import models
from edgekd.data import ImageSet
from edgekd.export.onnx import FLAVOURS, export
from edgekd.quantize import PtqConfig, ptq
from edgekd.types import InputSpec, Model, ModelSpec

CLASSES, SHIFT = 10, 3.0
# name -> side of its images: 64 where the network allows
FAMILIES = {
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "mnasnet0_5": 64,
    "efficientnet_b0": 64,
    "regnet_y_400mf": 64,
    "mobilenet_v3_small": 64,
    "densenet121": 64,
    "googlenet": 64,
    "convnext_tiny": 64,
    "vit_b_16": 224,
    "swin_t": 64,
}


def pictures(side: int) -> ImageSet:
    """32 smooth colour pictures: coarse noise, enlarged."""
    noise = torch.rand(32, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic").clamp(0, 1)
    pixels = (smooth * 255).round().to(torch.uint8).numpy()
    return ImageSet(pixels, np.arange(32, dtype=np.int64) % CLASSES, tuple("0123456789"), "made up")


def lively(name: str, images: ImageSet) -> Model:
    """The family with fresh weights that let a signal through: batch norms know the images, a head of zeros is drawn.

    The norms' shift keeps activations where they are nearly straight: deep fresh networks else fold a rounding over and
    over until it is all that the logits say.
    """
    side = images.shape[1]
    spec = ModelSpec(f"torchvision.models:{name}", CLASSES, InputSpec(3, side, side, (0.5,) * 3, (0.25,) * 3))
    model = models.build(spec)
    norms = [module for module in model.module.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.bias.data.fill_(SHIFT)
        norm.momentum = 1.0
        norm.train()
    if norms:
        logits(model, images.images)
    model.module.eval()
    random = torch.Generator().manual_seed(2)
    for module in model.module.modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.any():
            module.weight.data.normal_(std=0.05, generator=random)
    return model


def logits(model: Model, images: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.module(torch.from_numpy(images).float() / 255)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("flavour", ["u8s8", "s8"])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet:FutureWarning")
def test_the_file_gives_the_labels_of_the_twin(name: str, flavour: str, tmp_path: Path) -> None:
    images = pictures(FAMILIES[name])
    twin = ptq(lively(name, images), images, PtqConfig(flavour=flavour, calibrator="max"))
    found = logits(twin, images.images)
    assert float(found.std(0).max()) > 1e-3, "dead networks agree on anything"
    best, second = found.topk(2).values.T
    clear = (best - second).topk(8).indices.numpy()  # in a deep network a rounding decides the others
    file = export(twin, tmp_path / FLAVOURS[flavour].file, flavour, images.images[clear])
    assert file.top1_agreement.hits == file.top1_agreement.total == 8
    assert file.nodes["DequantizeLinear"] > 1
