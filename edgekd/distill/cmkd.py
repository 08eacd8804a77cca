"""CMKD (Niu et al. 2024): the student matches the teacher's outputs up to scale and shift, and the order of its classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from ..losses import entropy_share, pearson, soft_rank, standardised
from ..training import Settings
from .base import Distiller, Needs, cross_entropy

if TYPE_CHECKING:
    from ..data import Batch


class CMKDSettings(Settings):
    weight: float = Field(2.0, ge=0, description="weight of both distances together")
    temperature: float = Field(1.0, gt=0, description="softens the standardised outputs whose values are compared")
    rank_temperature: float = Field(
        0.1, gt=0, description="temperature of the soft ranks; towards 0 they become true ranks, without a gradient"
    )
    ranked: int = Field(
        100,
        ge=2,
        description="classes that are ranked: the teacher's top ones and the label; memory grows with their square",
    )
    balance: Literal["rank hard", "rank easy", "constant", "values", "ranks"] = Field(
        "rank hard",
        description="whether ranks weigh more on images that the teacher finds hard, or on easy ones; controls: half and "
        "half, values alone, ranks alone",
    )
    difficulty: Literal["entropy", "batch"] = Field(
        "entropy",
        description="difficulty of an image: the entropy of the teacher's outputs, or that relative to its batch, for a teacher "
        "that is sure of every image",
    )
    least_weight: float = Field(
        0.2,
        ge=0,
        le=0.5,
        description="lower bound of both weights, so that a teacher's entropy cannot switch one off",
    )


class CMKD(Distiller):
    """CE + w · mean_i(a_i·τ²·(1 - ρ(p_S, p_T)) + b_i·(1 - ρ(r_S, r_T))), p = softmax(zs(z) / τ), r = soft ranks of zs(z).

    ρ is Pearson's correlation within an image, zs(z) its outputs with mean 0 and deviation 1, b the teacher's entropy
    over log K, a = 1 - b. The paper's weights and the form of its ranks are not published: polarity and entropy are
    options, the rest is the method card's reconstruction, and a weighting is worth something only beside ``constant``.
    Scale and shift of the outputs do not count, so the student's confidence comes from the labels alone. Teacher ranks
    are soft too: hard ones would tell apart classes that the teacher does not. ``least_weight`` is ours.
    """

    Config: ClassVar[type[Settings]] = CMKDSettings
    needs: ClassVar[Needs] = "logits"

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            teacher = self.teacher(batch.images)
        student = self.student(batch.images)
        taught, learnt = standardised(teacher), standardised(student)
        temperature, ranks = self.config.temperature, self.config.rank_temperature
        values = 1 - pearson((learnt / temperature).softmax(dim=1), (taught / temperature).softmax(dim=1))
        first = first_classes(taught, batch.labels, self.config.ranked)
        order = 1 - pearson(soft_rank(learnt.gather(1, first), ranks), soft_rank(taught.gather(1, first), ranks))
        on_values, on_order = self.weights(teacher)
        return {
            "ce": cross_entropy(student, batch.labels),
            "values": self.config.weight * temperature**2 * (on_values * values).mean(),
            "order": self.config.weight * (on_order * order).mean(),
        }

    def weights(self, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(a, b) [N] of logits [N, K]; they add up to 1."""
        hard = entropy_share(teacher)
        if self.config.difficulty == "batch":
            hard = torch.sigmoid((hard - hard.mean()) / hard.std(correction=0).clamp_min(1e-9))
        hard = hard.clamp(self.config.least_weight, 1 - self.config.least_weight)
        on_order = {
            "rank hard": hard,
            "rank easy": 1 - hard,
            "constant": torch.full_like(hard, 0.5),
            "values": torch.zeros_like(hard),
            "ranks": torch.ones_like(hard),
        }[self.config.balance]
        return 1 - on_order, on_order


def first_classes(teacher: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` classes of highest teacher logit [N, K] of every image, its label [N] among them: int64 [N, count]."""
    with_label = teacher.detach().scatter(1, labels[:, None], torch.inf)
    return with_label.topk(min(count, teacher.shape[1]), dim=1).indices
