"""A teacher of every family, small; batches and contexts for methods outside the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgekd import models
from edgekd.data import Batches
from edgekd.training import Context, TrainConfig
from edgekd.types import InputSpec, Model, ModelSpec

MEAN_STD = ((0.4, 0.5, 0.45), (0.2, 0.25, 0.3))
QUICK = {"detox_steps": 4, "guard_every": 2, "margin_images": 64}  # stage 1 in a moment


def spec(arch: str, side: int = 16, classes: int = 4) -> ModelSpec:
    return ModelSpec(arch, classes, InputSpec(3, side, side, *MEAN_STD))


def model(arch: str, seed: int = 0, side: int = 16, classes: int = 4) -> Model:
    """A network with running statistics as after training: fresh ones would make batch-norm do nothing."""
    made = models.build(spec(arch, side, classes), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in made.module.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            shape = module.running_mean.shape
            module.running_mean.copy_(0.3 * torch.randn(shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
            with torch.no_grad():
                module.weight.copy_(0.5 + torch.rand(shape, generator=generator))
                module.bias.copy_(0.3 * torch.randn(shape, generator=generator))
    return made


def context(student: Model, images: Any, folder: Path | None = None, accuracy: Any = None, **train: Any) -> Context:
    config = TrainConfig(**{"epochs": 1, "batch_size": 32, "precision": "fp32", "augment": "none", **train})
    batches = Batches(images, config.batch_size, seed=config.seed, augment=config.augment)
    return Context(student.module, batches, config, torch.device("cpu"), folder, accuracy)


def accuracy_on(images: Any) -> Any:
    pixels, labels = torch.from_numpy(images.images).float() / 255, torch.from_numpy(images.labels)

    def accuracy(network: Any) -> float:
        with torch.inference_mode():
            return float((network(pixels).argmax(1) == labels).float().mean())

    return accuracy
