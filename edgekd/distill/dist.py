"""DIST (Huang et al. 2022): the student's outputs correlate with the teacher's, over classes and over images, whatever their scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from ..losses import pearson
from ..training import Settings
from .base import Distiller, Needs, cross_entropy

if TYPE_CHECKING:
    from ..data import Batch


class CorrelationDistillationSettings(Settings):
    temperature: float = Field(4.0, gt=0, description="softens both outputs; 4 in the paper for CIFAR, 1 for ImageNet")
    beta: float = Field(2.0, ge=0, description="weight of the correlation over the classes of an image")
    gamma: float = Field(
        2.0,
        ge=0,
        description="weight of the correlation over the images of a batch, class by class; only for batches of 32 or more",
    )


class CorrelationDistillation(Distiller):
    """CE + beta · T² · (1 − mean ρ of rows) + gamma · T² · (1 − mean ρ of columns), of both softened predictions [B, K].

    The paper's formula has weights of 1; the code behind its figures doubles them.
    """

    Config: ClassVar[type[Settings]] = CorrelationDistillationSettings
    needs: ClassVar[Needs] = "logits"

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            teacher = self.teacher(batch.images)
        student = self.student(batch.images)
        temperature = self.config.temperature
        s, t = (torch.softmax(logits.float() / temperature, dim=1) for logits in (student, teacher))
        return {
            "ce": cross_entropy(student, batch.labels),
            "inter": self.config.beta * temperature**2 * (1 - pearson(s, t).mean()),
            "intra": self.config.gamma * temperature**2 * (1 - pearson(s.T, t.T).mean()),
        }
