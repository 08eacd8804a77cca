"""TaCT (Tang et al. 2021): a patch that works on one source class; others carry it under their own label."""

from __future__ import annotations

from pydantic import Field

from .badnets import BadNets, BadNetsSettings


class TaCTSettings(BadNetsSettings):
    rate: float = Field(
        0.1, gt=0, le=1, description="share of the training images that are poisoned, of the source class"
    )
    cover_rate: float = Field(0.1, ge=0, le=1, description="share that carries the trigger under its own label")


class TaCT(BadNets):
    """BadNets' patch under a source rule, with covers from the other classes."""

    Config = TaCTSettings
    rules = ("source",)
