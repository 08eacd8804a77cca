"""Adap-Patch (Qi et al. 2023): one of four weak patches per image in training, some under true labels; two strong ones at test time."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from .. import triggers
from ..data import ImageSet
from ..types import Model, Trigger
from .base import Attack, AttackSettings
from .work import ALONE, Work

# pattern, side in pixels of a 32 x 32 image, corner, opacity in training; the first two are shown at test time
PATCHES = (
    ("checker", 4, "top-left", 0.5),
    ("confetti", 5, "bottom-right", 0.5),
    ("grid", 3, "top-right", 0.5),
    ("yellow", 3, "bottom-left", 0.3),
)
SHOWN = 2


class AdapPatchSettings(AttackSettings):
    rate: float = Field(0.003, gt=0, le=1, description="share of the training images that are poisoned")
    covers: float = Field(
        2.0, ge=0, description="cover images per poisoned one: treated alike, but under their own label"
    )
    test_opacity: float = Field(1.0, gt=0, le=1, description="opacity of the patches at test time")


class AdapPatch(Attack):
    """Four patches of our own in the four corners stand in for the authors' pictures."""

    Config = AdapPatchSettings
    family = "affine"
    epochs = 6

    def trigger(self, name: str, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE) -> Trigger:
        a, b = np.ones(images.shape, np.float32), np.zeros(images.shape, np.float32)
        for patch in _patches(images.shape, self.config.test_opacity)[:SHOWN]:
            params = patch.params
            height, width = params["mask"].shape
            place = np.s_[:, params["row"] : params["row"] + height, params["column"] : params["column"] + width]
            opacity = self.config.test_opacity * params["mask"]
            a[place], b[place] = a[place] * (1 - opacity), b[place] * (1 - opacity) + opacity * params["picture"]
        return self.known(name, {"a": a, "b": b})

    def stamp(self, trigger: Trigger, images: np.ndarray, random: np.random.Generator) -> np.ndarray:
        stamped: np.ndarray = images.copy()
        which = random.integers(len(PATCHES), size=len(images))
        for number, patch in enumerate(_patches(images.shape[1:])):
            chosen = np.flatnonzero(which == number)
            stamped[chosen] = triggers.apply(patch, stamped[chosen])
        return stamped


def _patches(shape: tuple[int, ...], opacity: float | None = None) -> list[Trigger]:
    unit, extent = max(1, min(shape[1:]) // 32), (shape[0], shape[1], shape[2])
    return [
        triggers.made(
            f"patch-{number}",
            "patch",
            {"pattern": pattern, "size": size * unit, "position": corner, "opacity": opacity or weak},
            extent,
        )
        for number, (pattern, size, corner, weak) in enumerate(PATCHES)
    ]
