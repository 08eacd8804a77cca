"""Zagoruyko and Komodakis 2017, attention transfer: the student looks where the teacher looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from ..losses import attention_distance
from ..training import Context, Settings
from .base import Distiller, cross_entropy
from .features import Pair, pair_sites, pooled

if TYPE_CHECKING:
    from ..data import Batch


class AttentionTransferSettings(Settings):
    beta: float = Field(1000.0, ge=0, description="weight of the summed distance of attention maps")


class AttentionTransfer(Distiller):
    """CE + beta · Σ_l mean((Q_T,l − Q_S,l)²) over maps after their activation; beta = 1000 as the CRD benchmark has it.

    Sites are paired from the deepest backwards, the larger map of a pair is averaged down.
    """

    Config: ClassVar[type[Settings]] = AttentionTransferSettings
    needs = "sites"

    pairs: tuple[Pair, ...]

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        first = next(iter(context.batches.epoch(0))).images
        self.student.eval()
        with torch.no_grad():
            self.pairs = pair_sites(self.teacher.sites(first).targets, self.student.sites(first).targets)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            teacher = self.teacher.sites(batch.images).targets
        student = self.student.sites(batch.images)
        distances = [
            attention_distance(
                pooled(teacher[pair.teacher].relu(), pair.size), pooled(student.targets[pair.student].relu(), pair.size)
            )
            for pair in self.pairs
        ]
        return {
            "ce": cross_entropy(student.logits, batch.labels),
            "features": self.config.beta * torch.stack(distances).sum(),
        }

    @property
    def report(self) -> dict[str, Any]:
        return {
            "sites": [
                {"teacher": pair.teacher, "student": pair.student, "size": list(pair.size)} for pair in self.pairs
            ]
        }
