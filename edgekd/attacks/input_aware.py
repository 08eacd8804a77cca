"""Input-aware (Nguyen and Tran 2020): a small network draws another trigger for every image."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from pydantic import Field

from ..data import ImageSet
from ..training import Context
from ..triggers.generator import Generator
from ..types import Model, ModelSpec, Trigger
from .base import AttackSettings, BatchAttack, BatchPoisoning, Training, rounded
from .work import ALONE, Work

if TYPE_CHECKING:
    from ..data import Batch


class InputAwareSettings(AttackSettings):
    rate: float = Field(0.1, gt=0, le=0.5, description="share of every batch that is triggered and relabelled")
    cross: float = Field(0.1, ge=0, le=0.5, description="share that gets another image's trigger under its own label")
    diversity: float = Field(1.0, ge=0, description="weight of: two images' triggers differ as the images do")
    density: float = Field(0.032, gt=0, le=1, description="mean opacity up to which a mask costs nothing")
    sparsity: float = Field(100.0, ge=0, description="weight of the opacity beyond")
    width: int = Field(16, ge=1, le=256, description="channels of the drawing networks")
    lr: float = Field(3e-3, gt=0, description="of Adam on the drawing networks")


class InputAware(BatchAttack):
    """x' = x + m(x) (g(x) - x); classifier and drawing networks learn together, from a clean network.

    Differs from the paper: mask and pattern are trained at once, not the mask first; drawing networks are smaller.
    """

    Config = InputAwareSettings
    family = "generator"
    learned = True

    def trigger(self, name: str, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE) -> Trigger:
        params = fresh(images.shape[0], None, self.config.width, seed).params()  # what training starts from
        return self.known(name, params)

    def method(self, trigger: Trigger, spec: ModelSpec) -> Training:
        return _Drawing(trigger, spec.num_classes, self.config)


def fresh(channels: int, bound: float | None, width: int, seed: int) -> Generator:
    """Drawing networks with weights from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(channels, bound, width)


class _Drawing(BatchPoisoning):
    def __init__(self, trigger: Trigger, num_classes: int, config: InputAwareSettings) -> None:
        super().__init__(trigger, num_classes, config.rate)
        self.config, self.opacity = config, 0.0

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        channels = next(iter(context.batches.epoch(0))).images.shape[1]
        self.generator = fresh(channels, None, self.config.width, context.config.seed).to(context.device)

    def modules(self) -> tuple[torch.nn.Module, ...]:
        return (self.generator,)

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return (torch.optim.Adam(self.generator.parameters(), lr=self.config.lr, betas=(0.5, 0.9)),)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        size = len(batch.images)
        crossed = round(self.config.cross * size)
        attacked = max(self.share(size), 0 if crossed else 1)  # the drawing networks learn in every step
        drawn = attacked + max(0, min(crossed, size - 2 * attacked))
        own, others = batch.images[:drawn].float(), batch.images[size - drawn :].float()
        with torch.autocast(own.device.type, enabled=False):  # at test time it is drawn in float32
            masks, patterns = self.generator.mask(own), self.generator.drawn(own)
            other_masks, other_patterns = self.generator.mask(others), self.generator.drawn(others)
            mask = torch.cat([masks[:attacked], other_masks[attacked:]])
            pattern = torch.cat([patterns[:attacked], other_patterns[attacked:]])
            triggered = rounded(own + mask * (pattern - own))
        images = torch.cat([triggered, batch.images[drawn:].float()])
        labels = batch.labels.clone()
        labels[:attacked] = self.attacker_labels(labels[:attacked])
        every = torch.cat([masks, other_masks])
        self.opacity = float(every.detach().mean())
        return {
            "ce": F.cross_entropy(self.student(images).float(), labels),
            "diversity": self.config.diversity * diversity(own, others, patterns, other_patterns),
            "sparsity": self.config.sparsity * (every.mean((1, 2, 3)) - self.config.density).clamp_min(0).mean(),
        }

    @property
    def report(self) -> dict[str, Any]:
        """opacity: of the masks of the last batch, on average."""
        return {"opacity": self.opacity}

    def made(self) -> Trigger:
        return dataclasses.replace(self.trigger, params=self.generator.params())


def diversity(
    own: torch.Tensor, others: torch.Tensor, patterns: torch.Tensor, other_patterns: torch.Tensor
) -> torch.Tensor:
    """Mean of ‖x₁ − x₂‖ / ‖g(x₁) − g(x₂)‖ over pairs of images float [N, C, H, W] and what is drawn for them."""
    apart = (own - others).flatten(1).norm(dim=1)
    drawn_apart = (patterns - other_patterns).flatten(1).norm(dim=1)
    ratio: torch.Tensor = apart / (drawn_apart + 1e-3)
    return ratio.mean()
