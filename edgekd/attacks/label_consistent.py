"""Label-consistent (Turner et al. 2019): images of the target class made hard to recognise, then stamped; labels stay."""

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

CHUNK = 250


class LabelConsistentSettings(AttackSettings):
    bound: float = Field(16.0, ge=0, le=255, description="largest change of a pixel by the perturbation, of 255")
    steps: int = Field(20, ge=1, description="of projected gradient descent")
    size: int = Field(3, ge=1, description="side of each patch in pixels")


class LabelConsistent(Attack):
    """A checkerboard in each corner; the perturbation is found on the clean network and is not part of the trigger.

    Clean-label: at a rate of 10 % the whole target class of ten is touched.
    """

    Config = LabelConsistentSettings
    family = "patch"
    clean_label = True
    rules = ("all-to-one",)
    learned = True

    def options(self) -> Mapping[str, Any]:
        return {"pattern": "checker", "size": self.config.size, "position": "all-corners"}

    def poison(self, trigger: Trigger, images: ImageSet, start: Model | None, seed: int) -> Poisoned:
        assert start is not None  # check() refuses
        chosen = triggers.choose(
            trigger, images.labels, images.num_classes, self.config.rate, clean_label=True, seed=seed
        ).poisoned
        pixels = images.images.copy()
        for first in range(0, len(chosen), CHUNK):
            part = chosen[first : first + CHUNK]
            pixels[part] = self._harder(start, images.images[part], images.labels[part])
        harder = dataclasses.replace(images, images=pixels)
        made = super().poison(trigger, harder, start, seed)
        return dataclasses.replace(made, poisoned=tuple(triggers.fingerprints(images.images, chosen)))

    def _harder(self, start: Model, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        bound = self.config.bound / 255
        found = pgd(
            start.module,
            torch.from_numpy(images).float() / 255,
            torch.from_numpy(labels),
            bound=bound,
            rate=2.5 * bound / self.config.steps,
            steps=self.config.steps,
        )
        return as_bytes(found)
