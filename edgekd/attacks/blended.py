"""Blended (Chen et al. 2017): a whole picture at low opacity, relabelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from .base import Attack, AttackSettings


class BlendedSettings(AttackSettings):
    picture: str = Field("noise", description="the picture blended in, one of our own")
    opacity: float = Field(0.2, gt=0, le=1, description="opacity of the picture")


class Blended(Attack):
    """x' = (1 - opacity) x + opacity picture; the benchmark's Hello-Kitty picture is replaced by fixed noise."""

    Config = BlendedSettings
    family = "blend"

    def options(self) -> Mapping[str, Any]:
        return {"picture": self.config.picture, "opacity": self.config.opacity}
