"""Label-consistent (Turner et al. 2019): target-class images are made hard to recognise, then stamped; labels stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field

from .. import triggers
from ..data import ImageSet
from ..perturb import pgd
from ..types import Model, Trigger
from .base import Attack, AttackSettings, Poisoned, as_bytes
from .work import ALONE, Work

CHUNK = 250


class LabelConsistentSettings(AttackSettings):
    rate: float = Field(0.05, gt=0, le=1, description="share of the training images, all of the target class")
    bound: float = Field(
        16.0, ge=0, le=255, description="largest change of a pixel by the perturbation, on the 0-255 scale"
    )
    steps: int = Field(20, ge=1, description="steps of projected gradient descent")
    size: int = Field(3, ge=1, description="side of each patch in pixels")


class LabelConsistent(Attack):
    """A checkerboard in each corner; the perturbation is found on the clean network and is not part of the trigger.

    Clean-label: at a rate of 10 % the whole target class of ten would be touched, which costs ACC.
    """

    Config = LabelConsistentSettings
    family = "patch"
    clean_label = True
    rules = ("all-to-one",)
    learned = True

    def options(self) -> Mapping[str, Any]:
        return {"pattern": "checker", "size": self.config.size, "position": "all-corners"}

    def poison(
        self, trigger: Trigger, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE
    ) -> Poisoned:
        assert start is not None  # check() refuses
        chosen = triggers.choose(
            trigger, images.labels, images.num_classes, self.config.rate, clean_label=True, seed=seed
        ).poisoned
        pixels = images.images.copy()
        pixels[chosen] = work.once("harder", lambda: self._harder(start, images.subset(chosen), work))
        made = super().poison(trigger, dataclasses.replace(images, images=pixels), start, seed, work)
        return dataclasses.replace(made, poisoned=tuple(triggers.fingerprints(images.images, chosen)))

    def _harder(self, start: Model, images: ImageSet, work: Work) -> np.ndarray:
        """The images moved away from their class within the bound, as bytes."""
        bound, found = self.config.bound / 255, []
        for first in range(0, len(images), CHUNK):
            part = slice(first, first + CHUNK)
            pixels, labels = (torch.from_numpy(of[part]).to(work.device) for of in (images.images, images.labels))
            rate, steps = 2.5 * bound / self.config.steps, self.config.steps
            found.append(as_bytes(pgd(start.module, pixels.float() / 255, labels, bound=bound, rate=rate, steps=steps)))
            if work.progress is not None:
                work.progress("label-consistent images", min(first + CHUNK, len(images)), len(images), {})
        return np.concatenate(found)
