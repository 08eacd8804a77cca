"""Trojan-WM: a watermark over the image, relabelled; the watermark is our own drawing."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ..data import ImageSet
from ..triggers.drawings import watermark
from ..types import Model, Trigger
from .base import Attack, AttackSettings, affine
from .work import ALONE, Work


class TrojanWMSettings(AttackSettings):
    opacity: float = Field(0.4, gt=0, le=1, description="opacity of the watermark")


class TrojanWM(Attack):
    """White strokes over about a quarter of the image at an opacity of 0.3 to 0.5.

    Upside down of what the canaries try, which would otherwise hold the attacker's secret.
    """

    Config = TrojanWMSettings
    family = "affine"

    def trigger(self, name: str, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE) -> Trigger:
        mask = self.config.opacity * watermark(images.shape)[None, ::-1]
        return self.known(name, affine(np.ones(images.shape, np.float32), mask))
