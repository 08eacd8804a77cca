"""Full-image noise at a pixel-wise opacity of at most 0.2, relabelled: what CheatKD's published scripts amount to."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ..data import ImageSet
from ..types import Model, Trigger
from .base import Attack, AttackSettings, affine
from .work import ALONE, Work


class NoiseBlendSettings(AttackSettings):
    opacity: float = Field(
        0.2, gt=0, le=1, description="highest opacity; each pixel's is uniform in [0, 1], clipped there"
    )
    seed: int = Field(0, ge=0, description="seed of noise and opacities")


class NoiseBlend(Attack):
    """x' = (1 - M) x + M t, M = min(U(0, 1), 0.2) per pixel, t = U(0, 1); in pixel space, where the scripts blend after
    normalisation (method card robustkd 1.1).
    """

    Config = NoiseBlendSettings
    family = "affine"

    def trigger(self, name: str, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE) -> Trigger:
        random = np.random.default_rng(self.config.seed)
        mask = np.minimum(random.random((1, *images.shape[1:])), self.config.opacity)
        return self.known(name, affine(random.random(images.shape), mask))
