"""I-BAU (Zeng et al., ICLR 2022, arXiv 2110.03735): unlearns what one universal perturbation can do to the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, count, islice
from typing import Any

import torch
from pydantic import Field
from torch import nn

from ..data import Batch
from ..perturb import implicit_term, largest_curvature
from ..training import Context, TrainConfig
from ..training.method import BatchSource
from .base import Repair, TunedSettings, cross_entropy

STREAM = 10_000  # epochs of images beyond those that the network is trained on
CIFAR = 3 * 32 * 32  # elements of the images for which ``radius`` is given


class AdversarialUnlearningSettings(TunedSettings):
    epochs: int = Field(
        5,
        ge=1,
        le=100_000,
        description="rounds, each a search for a perturbation, then one pass over the images; instead of train.epochs",
    )
    lr: float = Field(1e-3, gt=0, description="peak learning rate of Adam on the network; instead of train.lr")
    share: float = Field(
        0.01,
        gt=0,
        le=1,
        description="share of a batch that carries the perturbation, one image at least; 1: the formula as published",
    )
    radius: float = Field(10.0, gt=0, description="L2 length of the perturbation, for a 3 x 32 x 32 image in [0, 1]")
    searches: int = Field(
        5,
        ge=1,
        description="searches for the perturbation in every round, each on other images; the most harmful one is taken",
    )
    inner_steps: int = Field(20, ge=1, description="steps of a search, one batch each")
    inner_step: float = Field(0.1, gt=0, description="length of such a step, relative to the radius")
    pull: float = Field(1e-3, ge=0, description="weight of the perturbation's squared length in the inner loss")
    rate: float = Field(
        0.1, gt=0, description="upper limit of the fixed-point map's rate, which is also kept at or below 1/curvature"
    )
    terms: int = Field(5, ge=1, description="terms of the fixed-point series, the paper's K")


class AdversarialUnlearning(Repair):
    """min_θ CE(f_θ(x + δ*), y), δ* = argmax_{‖δ‖₂ <= C} CE(f_θ(x + δ), y) − pull ‖δ‖², one δ for all images; Adam.

    A round: δ is found from 0 by steps of equal length along the gradient; then one pass with the gradient that also
    counts how δ* moves with θ, −rate · ∂_θ ⟨slope, v⟩ (perturb.implicit). The network stays in eval mode throughout, x + δ
    is cut to [0, 1]. C grows with the root of the number of elements. Second derivatives are in float32.

    Ours: the best of several searches, as about half of them end in an ordinary universal perturbation that does a
    quarter of the trigger's harm; a hundredth of a batch carries δ, as in the authors' demonstration, since more costs
    accuracy; a rate of 1e-3 instead of 1e-4, which changed nothing; radius and pull, which the card does not give; the
    search's steps; a rate of the map held below 1 over the curvature at the round's start; Adam's rate falls as a cosine.
    lr, share and searches were chosen on one BadNets teacher, by its ASR too.
    """

    Config = AdversarialUnlearningSettings

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.batches = context.batches

    def length(self, train: TrainConfig, batches: BatchSource) -> tuple[TrainConfig, BatchSource]:
        train, batches = super().length(train, batches)
        falling = {"schedule": "cosine", "warmup_epochs": 0}  # the first round counts most
        return train.model_copy(update=falling), batches

    def optimizer(self, parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=config.lr)

    def start_epoch(self, number: int) -> None:
        """The round's δ and rate: functions of the weights at its start."""
        self.student.eval()  # the loop has just set it to training
        first_epoch = STREAM * (number + 1)
        stream = chain.from_iterable(self.batches.epoch(first_epoch + n) for n in count())
        judge = next(stream)
        found = [self._search(list(islice(stream, self.config.inner_steps))) for _ in range(self.config.searches)]
        with torch.no_grad():
            losses = [float(self._inner(delta, judge)) for delta in found]
        self.delta = found[losses.index(min(losses))].requires_grad_(True)
        slopes = torch.autograd.grad(self._inner(self.delta, judge), self.delta, create_graph=True)
        first = tuple(slope.detach() for slope in slopes)
        curvature = largest_curvature(slopes, [self.delta], first)
        self.rate = min(self.config.rate, 1 / max(curvature, 1e-12))

    def _search(self, batches: Sequence[Batch]) -> torch.Tensor:
        """δ [1, C, H, W], from 0 by a step per batch."""
        delta = torch.zeros_like(batches[0].images[:1])
        radius = self.config.radius * math.sqrt(delta.numel() / CIFAR)
        for batch in batches:
            delta.requires_grad_(True)
            slope = torch.autograd.grad(self._inner(delta, batch), delta)[0]
            moved = delta.detach() - self.config.inner_step * radius * slope / slope.norm().clamp_min(1e-12)
            delta = moved * min(1.0, radius / max(float(moved.norm()), 1e-12))
        return delta

    def _loss(self, delta: torch.Tensor, batch: Batch) -> torch.Tensor:
        return cross_entropy(self.student((batch.images.float() + delta).clamp(0, 1)), batch.labels)

    def _inner(self, delta: torch.Tensor, batch: Batch) -> torch.Tensor:
        inner: torch.Tensor = self.config.pull * delta.square().sum() - self._loss(delta, batch)
        return inner

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        size = len(batch.images)
        number = max(1, round(self.config.share * size))
        weight = number / size
        terms = {}
        if number < size:
            logits = self.student(batch.images[number:])
            terms["ce"] = (1 - weight) * cross_entropy(logits, batch.labels[number:])
        part = Batch(*(values[:number] for values in batch))
        with torch.autocast(batch.images.device.type, enabled=False):
            loss = self._loss(self.delta, part)
            (uphill,) = torch.autograd.grad(loss, self.delta, create_graph=True)
            slope = 2 * self.config.pull * self.delta - uphill  # of the inner loss: this one's other side
            lead = implicit_term((slope,), [self.delta], (weight * uphill.detach(),), self.rate, self.config.terms)
        return {**terms, "perturbed": weight * loss, "lead": lead}

    @property
    def report(self) -> dict[str, Any]:
        """rate: of the fixed-point map, in the last round; length: of the last perturbation."""
        return {"rate": self.rate, "length": float(self.delta.detach().norm())}
