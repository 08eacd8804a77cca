"""Adversarial training (Madry et al. 2018): no teacher; each batch is perturbed by PGD against the current student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from ..perturb import pgd
from ..training import Fraction, Settings
from .base import Distiller, cross_entropy

if TYPE_CHECKING:
    from ..data import Batch


class PerturbationSettings(Settings):
    bound: Fraction = Field(8 / 255, gt=0, le=1, description="largest change of a pixel, in [0, 1]: 8/255, 0.03")
    attack_steps: int = Field(
        10, ge=1, description="PGD steps on every batch; each costs a forward and a backward pass"
    )
    attack_rate: Fraction = Field(2 / 255, gt=0, le=1, description="change of a pixel in one PGD step")


class AdversarialTraining(Distiller):
    """CE(S(x'), y), x' from PGD within the bound, from a random start, on cross-entropy of the student in eval mode.

    The control of every claim of robustness: about 2 + 3 · attack_steps times the passes of plain training.
    """

    Config: ClassVar[type[Settings]] = PerturbationSettings
    true_labels = True

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"ce": cross_entropy(self.student(perturbed(self.student, batch, self.config)), batch.labels)}


def perturbed(student: Any, batch: Batch, settings: PerturbationSettings) -> torch.Tensor:
    """The batch's images [N, C, H, W] under attack, as the student would see them in use; its mode is as it was after."""
    before = student.training
    student.eval()
    found = pgd(
        student,
        batch.images,
        batch.labels,
        bound=settings.bound,
        rate=settings.attack_rate,
        steps=settings.attack_steps,
        generator=torch.default_generator,  # the epoch's stream: a continued run draws the same
    )
    student.train(before)
    return found
