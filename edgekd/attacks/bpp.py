"""BPP (Wang et al. 2022): fewer levels per colour, and other images' residuals under true labels, inside every batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field

from ..types import ModelSpec, Trigger
from .base import AttackSettings, BatchAttack, BatchPoisoning, Training, as_bytes, as_floats


class BPPSettings(AttackSettings):
    rate: float = Field(0.1, gt=0, le=0.5, description="share of every batch that is posterised and relabelled")
    negatives: float = Field(
        0.1, ge=0, le=0.5, description="share of every batch that gets another image's residual, under its own label"
    )
    levels: int = Field(8, ge=2, le=256, description="levels per colour channel")
    dither: bool = Field(False, description="Floyd-Steinberg dithering; slow")


class BPP(BatchAttack):
    """x' = round(x (q - 1)) / (q - 1); a negative gets what the squeeze would add to another image of the batch.

    Images are squeezed inside the batch, after crop and flip.
    """

    Config = BPPSettings
    family = "bitdepth"

    def options(self) -> Mapping[str, Any]:
        return {"levels": self.config.levels, "dither": self.config.dither}

    def method(self, trigger: Trigger, spec: ModelSpec) -> Training:
        return _Squeezing(trigger, spec.num_classes, self.config.rate, self.config.negatives)


class _Squeezing(BatchPoisoning):
    def __init__(self, trigger: Trigger, num_classes: int, rate: float, negatives: float) -> None:
        super().__init__(trigger, num_classes, rate)
        self.negatives = negatives

    def poison(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        attacked = self.share(len(images))
        negative = slice(attacked, min(attacked + round(self.negatives * len(images)), len(images)))
        count = negative.stop - negative.start
        apart = negative.stop + count <= len(images)
        others = images[len(images) - count :] if apart else images[negative].roll(1, 0)
        residual = self.stamped(others) - others
        images[negative] = as_floats(as_bytes((images[negative] + residual).clamp(0, 1)), images)
        images[:attacked] = self.stamped(images[:attacked])
        labels[:attacked] = self.attacker_labels(labels[:attacked])
        return images, labels
