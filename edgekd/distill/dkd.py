"""DKD (Zhao et al. 2022): Hinton's loss split into the label's class and the other classes, each with its own weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from ..losses import decoupled_kl
from ..training import Settings
from .base import Distiller, Needs, cross_entropy
from .warmup import WarmupSettings

if TYPE_CHECKING:
    from ..data import Batch


class DecoupledDistillationSettings(WarmupSettings):
    temperature: float = Field(4.0, gt=0, description="softens both outputs")
    alpha: float = Field(1.0, ge=0, description="weight of how likely the label's class is, against all others")
    beta: float = Field(
        8.0,
        ge=0,
        description="weight of how the other classes compare; the paper chose it per pair of networks, on test images: "
        "6 for wide ResNets and VGG13 to VGG8, 2 for deep CIFAR ResNets",
    )


class DecoupledDistillation(Distiller):
    """CE + w · T² · (alpha · TCKD + beta · NCKD), w rising to 1 over the first epochs."""

    Config: ClassVar[type[Settings]] = DecoupledDistillationSettings
    needs: ClassVar[Needs] = "logits"

    share = 1.0  # w in the epoch that runs

    def start_epoch(self, number: int) -> None:
        self.share = self.config.share(number, self.epochs)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            teacher = self.teacher(batch.images)
        student = self.student(batch.images)
        target, others = decoupled_kl(student, teacher, batch.labels, self.config.temperature)
        return {
            "ce": cross_entropy(student, batch.labels),
            "tckd": self.share * self.config.alpha * target.mean(),
            "nckd": self.share * self.config.beta * others.mean(),
        }
