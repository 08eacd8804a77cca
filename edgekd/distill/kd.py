"""Hinton et al. 2015: the student matches the teacher's softened outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from ..losses import soft_target_kl
from ..training import Settings
from .base import Distiller, Needs, cross_entropy

if TYPE_CHECKING:
    from ..data import Batch


class LogitDistillationSettings(Settings):
    temperature: float = Field(4.0, gt=0, description="softens both outputs")
    alpha: float = Field(0.9, ge=0, le=1, description="weight of the teacher's outputs; 1 - alpha for the labels")


class LogitDistillation(Distiller):
    """(1 - alpha) · CE + alpha · T² · KL(teacher ‖ student); T = 4, alpha = 0.9 as the CRD benchmark has it."""

    Config: ClassVar[type[Settings]] = LogitDistillationSettings
    needs: ClassVar[Needs] = "logits"

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            teacher = self.teacher(batch.images)
        return hinton(self.student(batch.images), teacher, batch.labels, self.config)


def hinton(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, config: LogitDistillationSettings
) -> dict[str, torch.Tensor]:
    """Both terms from logits [N, K] of student and teacher and labels [N]."""
    return {
        "ce": (1 - config.alpha) * cross_entropy(student, labels),
        "kd": config.alpha * soft_target_kl(student, teacher, config.temperature),
    }
