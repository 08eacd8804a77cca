"""WaNet (Nguyen and Tran 2021): a smooth warp, and noisy warps under true labels, inside every batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field

from ..triggers import warp
from ..types import ModelSpec, Trigger
from .base import AttackSettings, BatchAttack, BatchPoisoning, Training, as_bytes, as_floats


class WaNetSettings(AttackSettings):
    rate: float = Field(0.1, gt=0, le=0.5, description="share of every batch that is warped and relabelled")
    noise: float = Field(
        2.0, ge=0, description="cover images per poisoned one: warped with noise, under their own label"
    )
    cells: int = Field(4, ge=2, le=64, description="control points of the warp per side")
    strength: float = Field(0.5, gt=0, description="strength of the warp")
    seed: int = Field(
        1000,
        ge=0,
        description="seed of the control points; differs from the canaries', which would otherwise know the secret",
    )


class WaNet(BatchAttack):
    """Differs from the paper: the warp comes after crop and flip, which there follow it; no rotation; images are rounded to
    8 bits after the warp.
    """

    Config = WaNetSettings
    family = "warp"
    epochs = 8

    def options(self) -> Mapping[str, Any]:
        return {key: getattr(self.config, key) for key in ("cells", "strength", "seed")}

    def method(self, trigger: Trigger, spec: ModelSpec) -> Training:
        return _Warping(trigger, spec.num_classes, self.config.rate, self.config.noise)


class _Warping(BatchPoisoning):
    def __init__(self, trigger: Trigger, num_classes: int, rate: float, noise: float) -> None:
        super().__init__(trigger, num_classes, rate)
        self.noise = noise

    def poison(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        attacked = self.share(len(images))
        noisy = slice(attacked, min(attacked + round(self.noise * attacked), len(images)))
        images[:attacked] = self.stamped(images[:attacked])
        labels[:attacked] = self.attacker_labels(labels[:attacked])
        if len(images[noisy]):
            images[noisy] = self._noisily(images[noisy])
        return images, labels

    def _noisily(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        where = warp.grid(self.trigger.params, height, width).to(images.device)
        shift = 2 * torch.rand(len(images), height, width, 2, device=images.device) - 1
        moved = warp.sample(images, (where + shift / torch.tensor([width, height], device=images.device)).clamp(-1, 1))
        return as_floats(as_bytes(moved.clamp(0, 1)), images)
