"""SIG (Barni et al. 2019): a sine wave along the width of target-class images, whose label stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from .base import Attack, AttackSettings


class SIGSettings(AttackSettings):
    rate: float = Field(0.05, gt=0, le=1, description="share of the training images, all of the target class")
    delta: float = Field(40.0, gt=0, le=255, description="amplitude on the 0-255 scale, in training and at test time")
    frequency: float = Field(6.0, gt=0, description="periods per width")


class SIG(Attack):
    """Clean-label. At the published rate of 10 % the whole target class of ten carries the wave, which costs ACC: here it is 5 %."""

    Config = SIGSettings
    family = "sinusoid"
    epochs = 6
    clean_label = True
    rules = ("all-to-one",)

    def options(self) -> Mapping[str, Any]:
        return {"delta": self.config.delta, "frequency": self.config.frequency}
