"""Input-aware (Nguyen and Tran 2020): a small network draws a different trigger for every image."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from pydantic import Field

from ..data import ImageSet
from ..training import Context
from ..triggers.generator import Generator, from_params
from ..types import Model, ModelSpec, Trigger
from .base import AttackSettings, BatchAttack, BatchPoisoning, Training, rounded
from .search import batches_for, search
from .work import ALONE, Work

if TYPE_CHECKING:
    from ..data import Batch


class InputAwareSettings(AttackSettings):
    rate: float = Field(0.1, gt=0, le=0.5, description="share of every batch that is triggered and relabelled")
    cross: float = Field(
        0.1, ge=0, le=0.5, description="share of every batch that gets another image's trigger, under its own label"
    )
    diversity: float = Field(
        1.0, ge=0, description="weight of the term that makes two images' triggers differ as the images do"
    )
    density: float = Field(0.032, gt=0, le=1, description="opacity of a pixel up to which a mask costs nothing")
    sparsity: float = Field(100.0, ge=0, description="weight of the opacity beyond that")
    mask_steps: int = Field(500, ge=0, description="Adam steps on the masks, 64 images each, before anything else")
    mask_lr: float = Field(
        1e-3,
        gt=0,
        description="Adam's learning rate for the masks; at three times this they collapse and do not recover",
    )
    width: int = Field(16, ge=1, le=256, description="channels of the networks that draw the trigger")
    lr: float = Field(3e-3, gt=0, description="Adam's learning rate for the patterns")


class InputAware(BatchAttack):
    """x' = x + m(x) (g(x) - x): the masks m learn first, to be sparse and to differ as the images do; then pattern and classifier.

    Differs from the paper: the classifier starts clean, instead of after 25 epochs; drawing networks are smaller.
    """

    Config = InputAwareSettings
    family = "generator"
    epochs = 14
    learned = True

    def trigger(self, name: str, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE) -> Trigger:
        """With masks as they stay and patterns as training starts from them."""
        config = self.config
        generator = fresh(images.shape[0], None, config.width, seed).to(work.device)

        def loss(clean: torch.Tensor) -> torch.Tensor:
            masks = generator.mask(clean)
            opaque = (masks - config.density).clamp_min(0).mean()
            found: torch.Tensor = config.diversity * diversity(clean, masks) + config.sparsity * opaque
            return found

        assert generator.masks is not None
        variables = list(generator.masks.parameters())
        search(name, loss, variables, batches_for(images, seed, work), config.mask_steps, config.mask_lr, work)
        return self.known(name, generator.params())

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
        self.generator = from_params(self.trigger.params).to(context.device)
        assert self.generator.masks is not None
        self.generator.masks.requires_grad_(False)

    def modules(self) -> tuple[torch.nn.Module, ...]:
        return (self.generator,)

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return (torch.optim.Adam(self.generator.pattern.parameters(), lr=self.config.lr, betas=(0.5, 0.9)),)

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
        self.opacity = float(mask.mean())
        return {
            "ce": F.cross_entropy(self.student(images).float(), labels),
            "diversity": self.config.diversity * diversity(own, patterns, others, other_patterns),
        }

    @property
    def report(self) -> dict[str, Any]:
        """opacity: of the masks of the last batch, on average."""
        return {"opacity": self.opacity}

    def made(self) -> Trigger:
        return dataclasses.replace(self.trigger, params=self.generator.params())


def diversity(
    images: torch.Tensor,
    drawn: torch.Tensor,
    others: torch.Tensor | None = None,
    other_drawn: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of ‖x₁ − x₂‖ / ‖g(x₁) − g(x₂)‖ over pairs of images float [N, C, H, W] and what is drawn for them [N, ...].

    Without others, an image's other one is its neighbour in the batch.
    """
    others = images.roll(1, 0) if others is None else others
    other_drawn = drawn.roll(1, 0) if other_drawn is None else other_drawn
    apart = (images - others).flatten(1).norm(dim=1)
    drawn_apart = (drawn - other_drawn).flatten(1).norm(dim=1)
    ratio: torch.Tensor = apart / (drawn_apart + 1e-3)
    return ratio.mean()
