"""NAD (Li et al., ICLR 2021): a fine-tuned copy of the network teaches it through attention maps."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from ..losses import attention_distance
from ..training import Context, fit
from .base import Repair, TunedSettings, cross_entropy
from .ft import FineTuning

if TYPE_CHECKING:
    from ..data import Batch


class AttentionDistillationSettings(TunedSettings):
    epochs: int = Field(20, ge=1, le=100_000, description="passes over the clean images, instead of train.epochs")
    tune_epochs: int = Field(10, ge=1, le=100_000, description="passes that fine-tune the teaching copy")
    betas: tuple[float, ...] = Field(
        (500.0, 1000.0, 1000.0), min_length=1, description="weights of the deepest sites, from shallow to deep"
    )


class AttentionDistillation(Repair):
    """CE + Σ_l beta_l · mean((Q_T,l − Q_S,l)²), Q the map Σ_c F_c² of a raw site, flattened to length 1 per image.

    The teacher is a copy after ``tune_epochs`` of ``ft``. The paper writes a squared distance; its weights belong to
    the mean over positions, which is what we take. Three sites of a wide ResNet, as there; other networks: their
    deepest ones, the deepest with the last beta. The rate is ``ft``'s.
    """

    Config = AttentionDistillationSettings

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.teacher: Any = copy.deepcopy(self.student)
        config = context.config.model_copy(update={"epochs": self.config.tune_epochs})
        fit(
            self.teacher,
            FineTuning(self.config, self.spec),
            context.batches,
            config,
            folder=None if context.folder is None else context.folder / "tuned",
            progress=context.progress,
            identity={**context.identity, "part": "tuned"},
            what="tune",
        )
        self.teacher.requires_grad_(False)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            targets = self.teacher.sites(batch.images).raw
        student = self.student.sites(batch.images)
        return {
            "ce": cross_entropy(student.logits, batch.labels),
            "features": distances(targets, student.raw, self.config.betas),
        }


def distances(
    targets: tuple[torch.Tensor, ...], features: tuple[torch.Tensor, ...], betas: tuple[float, ...]
) -> torch.Tensor:
    """Σ_l beta_l · attention_distance, the deepest pairs of sites [N, C_l, H_l, W_l] with the last betas; a scalar."""
    count = min(len(betas), len(features))
    parts = zip(betas[-count:], targets[-count:], features[-count:], strict=True)
    return torch.stack([beta * attention_distance(target, feature) for beta, target, feature in parts]).sum()
