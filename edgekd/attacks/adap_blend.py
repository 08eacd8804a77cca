"""Adap-Blend (Qi et al. 2023): half of the blended picture in training, some of it under true labels; all of it at test time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from ..types import Trigger
from .base import Attack, AttackSettings


class AdapBlendSettings(AttackSettings):
    rate: float = Field(0.003, gt=0, le=1, description="share of the training images that are poisoned")
    covers: float = Field(
        1.0, ge=0, description="cover images per poisoned one: treated alike, but under their own label"
    )
    picture: str = Field("noise", description="the picture blended in, one of our own")
    opacity: float = Field(0.15, gt=0, le=1, description="opacity of the picture in training")
    test_opacity: float = Field(0.2, gt=0, le=1, description="opacity of the picture at test time")
    pieces: int = Field(4, ge=1, le=32, description="pieces per side that the picture is cut into")
    hidden: int = Field(8, ge=0, description="pieces left out, drawn anew for every image")


class AdapBlend(Attack):
    """16 pieces, of which 8 random ones are hidden per image; covers pull poisoned features back to their class."""

    Config = AdapBlendSettings
    family = "blend"

    def options(self) -> Mapping[str, Any]:
        return {"picture": self.config.picture, "opacity": self.config.test_opacity}

    def stamp(self, trigger: Trigger, images: np.ndarray, random: np.random.Generator) -> np.ndarray:
        config, (height, width) = self.config, images.shape[2:]
        count = config.pieces**2
        shown = np.argsort(random.random((len(images), count)), axis=1) >= min(config.hidden, count)
        rows = np.arange(height) * config.pieces // height
        columns = np.arange(width) * config.pieces // width
        mask = shown[:, rows[:, None] * config.pieces + columns][:, None]
        floats = images.astype(np.float32) / 255
        blended = floats + config.opacity * mask * (trigger.params["picture"] - floats)
        return np.asarray(np.rint(np.clip(blended, 0, 1) * 255), np.uint8)
