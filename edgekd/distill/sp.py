"""SP (Tung and Mori 2019): images that are alike to the teacher are alike to the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from ..losses import similarity_distance
from ..training import Settings
from .base import cross_entropy
from .features import FeatureDistiller, Pair

if TYPE_CHECKING:
    from ..data import Batch


class SimilarityPreservingSettings(Settings):
    beta: float = Field(
        3000.0, ge=0, description="weight of the distance between similarities, whose size depends on train.batch_size"
    )


class SimilarityPreserving(FeatureDistiller):
    """CE + beta · ||G_T − G_S||² / B² of the deepest site after its activation, whole: sizes and channels may differ.

    On wide ResNets a map is relu(BN(F)) of a group's sum F, where the CRD benchmark takes F itself.
    """

    Config: ClassVar[type[Settings]] = SimilarityPreservingSettings

    def choose(self, pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        return pairs[-1:]

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        teacher, student = self.both(batch.images)
        distance = similarity_distance(teacher.targets[-1].relu(), student.targets[-1].relu())
        return {"ce": cross_entropy(student.logits, batch.labels), "features": self.config.beta * distance}
