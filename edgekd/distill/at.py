"""Zagoruyko and Komodakis 2017, attention transfer: the student looks where the teacher looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from ..losses import attention_distance
from ..training import Settings
from .base import cross_entropy
from .features import FeatureDistiller, active

if TYPE_CHECKING:
    from ..data import Batch


class AttentionTransferSettings(Settings):
    beta: float = Field(1000.0, ge=0, description="weight of the summed distance between attention maps")


class AttentionTransfer(FeatureDistiller):
    """CE + beta · Σ_l mean((Q_T,l − Q_S,l)²) over maps after their activation; beta = 1000 as the CRD benchmark has it.

    Sites are paired from the deepest backwards, the larger map of a pair is averaged down. On wide ResNets a map is
    relu(BN(F)) of a group's sum F, where the CRD benchmark takes F itself.
    """

    Config: ClassVar[type[Settings]] = AttentionTransferSettings

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        teacher, student = self.both(batch.images)
        distances = [attention_distance(*active(pair, teacher, student)) for pair in self.pairs]
        return {
            "ce": cross_entropy(student.logits, batch.labels),
            "features": self.config.beta * torch.stack(distances).sum(),
        }
