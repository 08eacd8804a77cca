"""FitNets (Romero et al. 2015): a middle layer of the student regresses to one of the teacher's, the hint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ..errors import UsageError
from ..training import Context, Settings
from .base import cross_entropy
from .features import FeatureDistiller, Pair, active

if TYPE_CHECKING:
    from ..data import Batch


class HintDistillationSettings(Settings):
    beta: float = Field(100.0, ge=0, description="weight of the hint's mean squared error")
    layer: Annotated[int, Field(ge=1)] | Literal["middle"] = Field(
        "middle", description="which pair of sites is compared, counted from 1, the shallowest; middle: 2 of 3 or 4"
    )


class HintDistillation(FeatureDistiller):
    """CE + beta · mean((r(S_l) − T_l)²) of one site after its activation, r a 1 x 1 convolution, norm and ReLU.

    Jointly, as the CRD benchmark has it; the paper trains the hint first. Without the norm a weight of 100 diverges at
    rates from 0.05. The larger map is averaged down. On wide ResNets a map is relu(BN(F)) of a group's sum F, where the
    CRD benchmark takes F itself.
    """

    Config: ClassVar[type[Settings]] = HintDistillationSettings

    regressor: nn.Sequential

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        (pair,) = self.pairs
        convolution = nn.Conv2d(pair.student_channels, pair.teacher_channels, 1, bias=False)
        self.regressor = nn.Sequential(convolution, nn.BatchNorm2d(pair.teacher_channels), nn.ReLU()).to(context.device)

    def choose(self, pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        layer = (len(pairs) + 1) // 2 if self.config.layer == "middle" else self.config.layer
        if layer > len(pairs):
            raise UsageError(
                f"distill.layer={layer}, but these networks have {len(pairs)} pairs of sites. Choose 1 to {len(pairs)}."
            )
        return (pairs[layer - 1],)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        teacher, student = self.both(batch.images)
        target, feature = active(self.pairs[0], teacher, student)
        return {
            "ce": cross_entropy(student.logits, batch.labels),
            "features": self.config.beta * F.mse_loss(self.regressor(feature).float(), target.float()),
        }

    def modules(self) -> tuple[nn.Module, ...]:
        return (self.regressor,)
