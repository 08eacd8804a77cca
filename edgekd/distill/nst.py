"""NST (Huang and Wang 2017): the student's channels fire at the same places as the teacher's, compared as two sets of directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from ..losses import selectivity_distance
from ..training import Settings
from .base import cross_entropy
from .features import FeatureDistiller, active

if TYPE_CHECKING:
    from ..data import Batch


class NeuronSelectivitySettings(Settings):
    beta: float = Field(50.0, ge=0, description="weight of the summed distance between the channels' selectivity")


class NeuronSelectivity(FeatureDistiller):
    """CE + beta · Σ_l MMD²(T_l, S_l) over maps after their activation; the larger map of a pair is averaged down.

    On wide ResNets a map is relu(BN(F)) of a group's sum F, where the CRD benchmark takes F itself.
    """

    Config: ClassVar[type[Settings]] = NeuronSelectivitySettings

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        teacher, student = self.both(batch.images)
        distances = [selectivity_distance(*active(pair, teacher, student)) for pair in self.pairs]
        return {
            "ce": cross_entropy(student.logits, batch.labels),
            "features": self.config.beta * torch.stack(distances).sum(),
        }
