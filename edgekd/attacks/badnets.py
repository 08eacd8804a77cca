"""BadNets (Gu et al. 2017): a small opaque patch, relabelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from .base import Attack, AttackSettings


class BadNetsSettings(AttackSettings):
    pattern: str = Field("white", description="pattern of the patch; see `edgekd list triggers`")
    size: int = Field(3, ge=1, description="side of the patch in pixels")
    position: str = Field("bottom-right", description="corner of the image, or all-corners")
    margin: int = Field(0, ge=0, description="pixels between patch and border")


class BadNets(Attack):
    """A white 3 x 3 square in the bottom right corner by default."""

    Config = BadNetsSettings
    family = "patch"
    epochs = 6

    def options(self) -> Mapping[str, Any]:
        return {key: getattr(self.config, key) for key in ("pattern", "size", "position", "margin")}
