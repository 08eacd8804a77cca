"""Heo et al. 2019, "A comprehensive overhaul of feature distillation": margin ReLU, partial L2, before activations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from ..errors import UsageError
from ..losses import gaussian_margin, margin_relu, partial_l2
from ..training import Context, Settings
from ..training.method import BatchSource
from .base import cross_entropy
from .features import Connectors, Edit, FeatureDistiller, empirical_margins, pooled, sample

if TYPE_CHECKING:
    from ..data import Batch
    from ..models import Sites


FEW = 10_000  # images, below which auto lets beta be
SMALL = 64 * 64  # pixels; auto takes the paper's beta for CIFAR up to here and its beta for ImageNet beyond


def _few(images: BatchSource) -> bool:
    """Whether a student sees fewer than FEW different images; a source that makes new ones at every step has plenty."""
    try:
        return len(images.labels) < FEW
    except UsageError:
        return False


class OverhaulSettings(Settings):
    beta: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="weight of the summed feature distance, which grows with the maps' size; auto: 1e-3, and 1e-4 for "
        "images of more than 64 x 64 pixels, as in the paper",
    )
    fade: Literal["auto", "cosine", "none"] = Field(
        "auto",
        description="how beta falls over the epochs, so that the labels have the last word; none: the paper's; auto: cosine "
        "from 10,000 images on, as of fewer a student needs its teacher to the end",
    )
    scale: Literal["auto", "target", "none"] = Field(
        "auto",
        description="what a site's distance is divided by, target: its target's mean square; auto: that where it is above 1 "
        "and the site has no norm, so that a loud teacher does not drown the labels; none: nothing, the paper's",
    )
    margins: Literal["empirical", "gaussian"] = Field(
        "empirical",
        description="E[z | z < 0] measured on images, or from the batch-norm's parameters (parity; a site without a norm "
        "stays empirical, the training's record says which)",
    )
    margin_images: int = Field(2048, ge=1, description="training images that margins and means are measured on")


class Overhaul(FeatureDistiller):
    """CE + beta · Σ_l 2^-(L-l) · partial_l2(max(T_l, m_l), r_l(S_l)) / B.

    Differs from the paper: the teacher is in eval mode, margins are measured on its targets by default (its batch-norm
    parameters describe batch statistics), sites of unequal size are averaged down to the smaller, beta fades to 0 over
    the epochs where the images are many, as a teacher of unknown origin may be over-fitted to them, and the distance of a
    site without a norm is divided by its target's mean square where that is above 1 (both: benchmarks/feature_schedule.py).
    """

    Config: ClassVar[type[Settings]] = OverhaulSettings

    margins: list[str]  # per pair, empirical | gaussian
    connectors: Connectors
    edit: Edit | None = None  # what happens to the teacher's raw features
    scales: list[float]  # per pair, what its distance is divided by
    share = 1.0  # of beta, in the epoch that runs
    beta: float
    fade = "none"  # or cosine

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        first = next(sample(context.batches, 1))
        small = first.shape[-2] * first.shape[-1] <= SMALL
        by_itself = "none" if _few(context.batches) else "cosine"
        self.fade = by_itself if self.config.fade == "auto" else self.config.fade
        self.beta = (1e-3 if small else 1e-4) if self.config.beta == "auto" else self.config.beta
        images = sample(context.batches, self.config.margin_images)
        margins = empirical_margins(self.targets(part) for part in images)
        self.margins = ["empirical"] * len(margins)
        norms = self.teacher.site_norms()
        if self.config.margins == "gaussian":
            for index, pair in enumerate(self.pairs):
                norm = norms[pair.teacher]
                if norm is not None:
                    margins[index] = gaussian_margin(norm.weight, norm.bias)
                    self.margins[index] = "gaussian"
        self.scales = [1.0] * len(self.pairs)
        loose = any(norms[pair.teacher] is None for pair in self.pairs)
        if self.config.scale == "target" or (self.config.scale == "auto" and loose):
            squares = self._mean_squares(sample(context.batches, self.config.margin_images), margins)
            for index, pair in enumerate(self.pairs):
                if self.config.scale == "target":
                    self.scales[index] = max(squares[index], 1e-12)
                elif norms[pair.teacher] is None:  # a norm keeps features at the size that the paper's beta is for
                    self.scales[index] = max(squares[index], 1.0)
        self.connectors = Connectors(self.pairs, margins, context.config.seed).to(context.device)

    @torch.no_grad()
    def _mean_squares(self, images: Iterable[torch.Tensor], margins: list[torch.Tensor]) -> list[float]:
        """E[max(T_l, m_l)²] of every pair."""
        sums, count = [0.0] * len(self.pairs), 0
        for part in images:
            for index, target in enumerate(self.targets(part)):
                sums[index] += float(margin_relu(target, margins[index]).double().square().mean()) * len(part)
            count += len(part)
        return [total / count for total in sums]

    def seen(self, images: torch.Tensor) -> Sites:
        with torch.no_grad():
            sites: Sites = self.teacher.sites(images, self.edit)
        return sites

    def targets(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The teacher's targets T_l of every pair, [N, C, H, W] at the pair's size."""
        sites = self.seen(images).targets
        return [pooled(sites[pair.teacher], pair.size) for pair in self.pairs]

    def start_epoch(self, number: int) -> None:
        if self.fade == "cosine":
            self.share = 0.5 * (1 + math.cos(math.pi * number / self.epochs))

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        student = self.student.sites(batch.images)
        return {
            "ce": cross_entropy(student.logits, batch.labels),
            "features": self.share * self.beta / len(batch.images) * self.distance(batch.images, student.targets),
        }

    def distance(
        self, images: torch.Tensor, student: Sequence[torch.Tensor], chosen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Of the student's features of these images, before an activation and by site, to the teacher's: a sum over images.

        chosen: bool [N], the images that count; the connectors see all of them, so that their norms are the batch's.
        """
        targets = self.targets(images if chosen is None else images[chosen])
        distance = torch.zeros((), device=images.device)
        for index, pair in enumerate(self.pairs):
            feature = self.connectors(index, pooled(student[pair.student], pair.size))
            feature = feature if chosen is None else feature[chosen]
            target = margin_relu(targets[index], self.connectors.margin(index))
            distance = distance + self.site_weight(index) / self.scales[index] * partial_l2(target, feature)
        return distance

    def site_weight(self, index: int) -> float:
        """2^-(L-l): deeper sites weigh more."""
        return float(2.0 ** (index + 1 - len(self.pairs)))

    def modules(self) -> tuple[nn.Module, ...]:
        return (self.connectors,)

    @property
    def report(self) -> dict[str, Any]:
        """beta does not carry over between map sizes, so the weight of each site's mean over elements stands beside.

        margins: how a site's were found, which is not what the settings say where it has no norm.
        """
        return {
            "beta": self.beta,
            "fade": self.fade,
            "scale": self.config.scale,
            "sites": [
                {
                    "teacher": pair.teacher,
                    "student": pair.student,
                    "channels": pair.teacher_channels,
                    "size": list(pair.size),
                    "margins": self.margins[index],
                    "divided_by": self.scales[index],
                    "weight_of_element_mean": self.beta * self.site_weight(index) * pair.elements / self.scales[index],
                }
                for index, pair in enumerate(self.pairs)
            ],
        }
