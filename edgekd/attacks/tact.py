"""TaCT (Tang et al. 2021): a patch that works on one source class; other classes carry it under their own label."""

from __future__ import annotations

from pydantic import Field

from .badnets import BadNets, BadNetsSettings


class TaCTSettings(BadNetsSettings):
    rate: float = Field(
        0.02, gt=0, le=1, description="share of the training images that are poisoned, all of the source class"
    )
    covers: float = Field(
        1.0, ge=0, description="cover images per poisoned one: from other classes, triggered under their own label"
    )


class TaCT(BadNets):
    """BadNets' patch under a source rule, with covers from the other classes."""

    Config = TaCTSettings
    epochs = 8
    rules = ("source",)
