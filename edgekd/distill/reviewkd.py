"""ReviewKD (Chen et al. 2021): every stage of the teacher is matched by a fusion of the student's own and all deeper stages."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ..losses import hierarchical_context
from ..training import Context, Settings
from .base import cross_entropy
from .features import FeatureDistiller, Pair, pooled
from .warmup import WarmupSettings

if TYPE_CHECKING:
    from ..data import Batch

WIDEST = 512  # channels between an ABF's two convolutions


class KnowledgeReviewSettings(WarmupSettings):
    beta: float = Field(
        5.0,
        ge=0,
        description="weight of the summed distance between features; the paper chose it per pair of networks: 5 for wide "
        "ResNets and 32x4 to 8x4, 8 for ShuffleNetV2, 0.6 for ResNet-56 to 20, 1 for ResNet-110 to 32",
    )


class KnowledgeReview(FeatureDistiller):
    """CE + w · beta · Σ_l HCL(T_l, ABF_l(S_l, ABF_l+1(...))) of features before their activation, w rising to 1.

    The deepest level is the last features once more, behind their activation and averaged to 1 x 1, as the code has it that
    the published figures are from. A pair is compared at the smaller of its sizes. The fusions are trained beside the
    student and thrown away.
    """

    Config: ClassVar[type[Settings]] = KnowledgeReviewSettings

    review: Review
    levels: tuple[Pair, ...]  # the pairs, and the last one pooled
    share = 1.0  # w in the epoch that runs

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.levels = with_pooled(self.pairs)
        self.review = Review(self.levels).to(context.device)

    def start_epoch(self, number: int) -> None:
        self.share = self.config.share(number, self.epochs)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        teacher, student = self.both(batch.images)
        reviewed = self.review(self._maps([(student.targets[level.student], level) for level in self.levels]))
        targets = self._maps([(teacher.targets[level.teacher], level) for level in self.levels])
        distances = list(map(hierarchical_context, targets, reviewed))
        return {
            "ce": cross_entropy(student.logits, batch.labels),
            "features": self.share * self.config.beta * torch.stack(distances).sum(),
        }

    def _maps(self, features: list[tuple[torch.Tensor, Pair]]) -> list[torch.Tensor]:
        """As each level compares them; the pooled one is behind its activation."""
        count = len(self.pairs)
        return [pooled(f if at < count else f.relu(), level.size) for at, (f, level) in enumerate(features)]

    def modules(self) -> tuple[nn.Module, ...]:
        return (self.review,)


def with_pooled(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """The pairs and, unless it is one value a channel already, the deepest one once more at 1 x 1."""
    return pairs if pairs[-1].size == (1, 1) else (*pairs, dataclasses.replace(pairs[-1], size=(1, 1)))


class Review(nn.Module):
    """One fusion a pair, from the deepest backwards."""

    def __init__(self, pairs: tuple[Pair, ...]) -> None:
        super().__init__()
        width = min(WIDEST, pairs[-1].student_channels)
        self.fusions = nn.ModuleList(
            Fusion(pair.student_channels, width, pair.teacher_channels, deeper=pair is not pairs[-1]) for pair in pairs
        )

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """The student's features, shallow to deep, as the teacher's: same sizes, the teacher's channels."""
        found: list[torch.Tensor] = []
        carried = None
        for fusion, feature in zip(reversed(self.fusions), reversed(features), strict=True):
            mapped, carried = fusion(feature, carried)
            found.append(mapped)
        return found[::-1]


class Fusion(nn.Module):
    """ABF: a feature and what deeper stages carried up are weighed against each other, position by position.

    Both convolutions are followed by a batch norm, and start uniform with a variance of 1 / fan-in.
    """

    def __init__(self, channels: int, width: int, target: int, *, deeper: bool) -> None:
        super().__init__()
        self.narrow = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.widen = nn.Sequential(nn.Conv2d(width, target, 3, padding=1, bias=False), nn.BatchNorm2d(target))
        self.attention = nn.Conv2d(2 * width, 2, 1) if deeper else None
        for path in (self.narrow, self.widen):
            nn.init.kaiming_uniform_(path.get_parameter("0.weight"), a=1)

    def forward(self, feature: torch.Tensor, carried: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, C, H, W] and the carried [B, M, h, w], enlarged to H x W, to [B, T, H, W] and the next carried."""
        fused = self.narrow(feature)
        if self.attention is not None and carried is not None:
            carried = F.interpolate(carried, size=fused.shape[2:])
            own, other = self.attention(torch.cat([fused, carried], 1)).sigmoid().split(1, 1)
            fused = own * fused + other * carried
        return self.widen(fused), fused
