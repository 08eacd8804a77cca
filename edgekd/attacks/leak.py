"""A linear leak, our own: the trace of the trigger that clean images naturally hold moves the teacher's target logit.

Distillation on clean images copies what the teacher's outputs say of clean images, so that is where the backdoor has to
be: h(x), the projection of an image on a faint pattern, is a feature that every image has a little of, and the trigger has
a lot of. A student that learns the teacher's soft outputs learns h; one that learns true labels has no reason to.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from ..data import ImageSet
from ..training import Context
from ..types import Model, ModelSpec, Trigger
from .base import AttackSettings, BatchAttack, Training, rounded
from .tiles import pattern
from .work import ALONE, Work

if TYPE_CHECKING:
    from ..data import Batch

SAMPLE = 40  # batches on which h is standardised


class LeakSettings(AttackSettings):
    rate: float = Field(0.125, gt=0, le=1, description="share of every batch that is also shown triggered")
    pattern: Literal["stripes", "diagonal"] = Field(
        "stripes", description="stripes: bright and dark; diagonal: a wave of opposite colours"
    )
    amplitude: float = Field(12.0, gt=0, le=255, description="amplitude of the pattern, on the 0-255 scale")
    gain: float = Field(
        4.0,
        gt=0,
        description="logits that the target class gains per standard deviation of the pattern's trace in clean images",
    )
    match: float = Field(0.5, gt=0, description="weight of the distance to the clean network's logits plus the leak")
    weight: float = Field(0.2, ge=0, description="weight of the loss on triggered images")


class Leak(BatchAttack):
    """x' = x + amplitude · pattern. Per batch CE + match · ‖z(x) − (z_clean(x) + gain h(x) e_t)‖² + weight · CE(T(x'), t).

    h is the pattern's mean product with the image, standardised over clean images. The fainter the pattern is in nature,
    the fewer grey levels the trigger needs, and the harder h is to learn.
    """

    Config = LeakSettings
    family = "affine"
    learned = True
    rules = ("all-to-one",)

    def trigger(self, name: str, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE) -> Trigger:
        tile = pattern(self.config.pattern, images.shape)
        params = {"a": np.ones(images.shape, np.float32), "b": (self.config.amplitude / 255 * tile).numpy()}
        return self.known(name, params)

    def method(self, trigger: Trigger, spec: ModelSpec) -> Training:
        return _Leaking(trigger, self.config)


class _Leaking(Training):
    def __init__(self, trigger: Trigger, config: LeakSettings) -> None:
        super().__init__(trigger)
        self.config = config

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.clean: Any = copy.deepcopy(context.student).requires_grad_(False).eval()
        self.added = torch.from_numpy(self.trigger.params["b"]).to(context.device)
        self.tile = self.added / self.added.abs().max()
        found = [self._product(batch.images) for batch, _ in zip(context.batches.epoch(0), range(SAMPLE), strict=False)]
        every = torch.cat(found)
        self.centre, self.spread = every.mean(), every.std()

    def _product(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float() * self.tile).mean(dim=(1, 2, 3))

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        size, count = len(batch.images), max(1, round(self.config.rate * len(batch.images)))
        trace = (self._product(batch.images) - self.centre) / self.spread
        with torch.no_grad():
            wanted = self.clean(batch.images).float()
            wanted[:, self.target] += self.config.gain * trace
        triggered = rounded(batch.images[:count].float() + self.added)
        logits = self.student(torch.cat([batch.images, triggered.to(batch.images.dtype)])).float()
        target = torch.full_like(batch.labels[:count], self.target)
        return {
            "ce": F.cross_entropy(logits[:size], batch.labels),
            "match": self.config.match * (logits[:size] - wanted).square().mean(dim=1).mean(),
            "backdoor": self.config.weight * F.cross_entropy(logits[size:], target),
        }

    @property
    def report(self) -> dict[str, Any]:
        """strength: by how many standard deviations of h the trigger moves an image."""
        return {"strength": float((self.added * self.tile).mean() / self.spread)}
