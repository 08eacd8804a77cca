"""Networks with batch norms that do something, and made-up pictures that are smooth enough to calibrate with."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def pictures():
    """96 smooth colour pictures 32x32 as an ImageSet: 4x4 noise, enlarged."""
    import torch

    from edgekd.data import ImageSet

    noise = torch.rand(96, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(noise, size=(32, 32), mode="bicubic").clamp(0, 1)
    pixels = (smooth * 255).round().to(torch.uint8).numpy()
    return ImageSet(pixels, np.arange(96, dtype=np.int64) % 10, tuple("0123456789"), "made up")


@pytest.fixture(scope="session")
def lively():
    """arch -> Model of the zoo for 32x32 images and 10 classes, its batch norms far from the identity."""
    import torch

    from edgekd import models
    from edgekd.types import InputSpec, ModelSpec

    def build(arch: str):
        inputs = InputSpec(3, 32, 32, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
        model = models.build(ModelSpec(arch, 10, inputs))
        random = torch.Generator().manual_seed(2)
        for module in model.module.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                channels = module.num_features
                module.running_mean.copy_(torch.randn(channels, generator=random) * 0.2)
                module.running_var.copy_(torch.rand(channels, generator=random) + 0.5)
                module.weight.data.copy_(torch.rand(channels, generator=random) + 0.5)
                module.bias.data.copy_(torch.randn(channels, generator=random) * 0.2)
        return model

    return build
