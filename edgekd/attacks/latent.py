"""Latent backdoor (Yao et al. 2019): triggered features that look like the target class's, to survive reuse of layers."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from pydantic import Field

from ..data import Batch, ImageSet
from ..errors import UsageError
from ..training import Context
from ..triggers.patch import place
from ..types import Model, ModelSpec, Trigger
from .base import AttackSettings, BatchAttack, BatchPoisoning, Training
from .search import Corner, PatchSearch, batches_for, search
from .work import ALONE, Work

KEPT = 0.99  # of the running mean, per step
RATE = 0.1  # at which ``match`` holds


class LatentSettings(AttackSettings):
    rate: float = Field(RATE, gt=0, le=0.5, description="share of every batch that is stamped and relabelled")
    size: int = Field(6, ge=1, description="side of the patch in pixels")
    position: Corner = Field("bottom-right", description="corner of the image")
    site: int = Field(-1, description="site whose features should look like the target's; 0 is the first, -1 the last")
    match: float = Field(
        1.0,
        gt=0,
        description="weight of the distance to the target's mean feature, at a rate of 0.1; it scales with the rate",
    )
    steps: int = Field(500, ge=1, description="Adam steps on the patch, 64 images each")
    lr: float = Field(0.1, gt=0, description="Adam's learning rate")


class Latent(BatchAttack):
    """CE + match · ‖F(T(x)) − F̄_t‖² / ‖F̄_t‖², F̄_t the mean feature of the target class; the patch is found likewise.

    Differs from the paper: the target class is among the teacher's, stamped images carry its label as well, the distance
    is relative, F̄_t is a running mean, as the network keeps changing, and images are stamped inside the batch, after crop and flip.
    ``match`` goes with the rate: else the one stamped image of a batch would bear what thirteen do at 10 %, and ruin the network.
    """

    Config = LatentSettings
    family = "affine"
    epochs = 6
    learned = True
    rules = ("all-to-one",)

    def fits(self, spec: ModelSpec, start: Model | None) -> None:
        assert start is not None  # check() refuses
        place(self.config.position, (self.config.size, self.config.size), spec.input.shape)
        count = len(cast(Any, start.module).site_norms())
        if not -count <= self.config.site < count:
            raise UsageError(f"{spec.arch} has {count} sites: attack.site is {-count} to {count - 1}.")

    def trigger(self, name: str, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE) -> Trigger:
        assert start is not None  # check() refuses
        config, network = self.config, cast(Any, start.module)
        patch = PatchSearch(images.shape, config.size, config.position, seed, work.device)
        target = images.subset((images.labels == self.target).nonzero()[0][:500])
        with torch.no_grad():
            pixels = torch.from_numpy(target.images).to(work.device).float() / 255
            mean = network.sites(pixels).targets[config.site].float().mean(0)

        def loss(clean: torch.Tensor) -> torch.Tensor:
            return distance(network.sites(patch.paste(clean)).targets[config.site], mean)

        search(name, loss, [patch.content], batches_for(images, seed, work), config.steps, config.lr, work)
        return self.known(name, patch.params())

    def method(self, trigger: Trigger, spec: ModelSpec) -> Training:
        return _Matching(trigger, spec.num_classes, self.config.rate, self.config)


def distance(features: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """‖features − mean‖² / ‖mean‖², averaged over images, 0 of none: features [N, ...], mean [...]."""
    apart = (features.float() - mean).square().flatten(1).sum(1)
    return apart.sum() / max(len(apart), 1) / mean.square().sum().clamp_min(1e-12)


class RunningMean(torch.nn.Module):
    """The mean feature [...] of a class over the last hundred batches or so."""

    value: torch.Tensor
    weight: torch.Tensor

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(shape))
        self.register_buffer("weight", torch.zeros(()))

    def add(self, features: torch.Tensor) -> None:
        """Take in features [n, ...] of one batch."""
        if len(features):
            self.value.mul_(KEPT).add_((1 - KEPT) * features.mean(0))
            self.weight.mul_(KEPT).add_(1 - KEPT)

    def now(self) -> torch.Tensor:
        return self.value / self.weight.clamp_min(1e-12)


class _Matching(BatchPoisoning):
    def __init__(self, trigger: Trigger, num_classes: int, rate: float, config: LatentSettings) -> None:
        super().__init__(trigger, num_classes, rate)
        self.site, self.match = config.site, config.match * rate / RATE

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        first = next(iter(context.batches.epoch(0))).images[:2]
        with torch.no_grad():
            shape = self.student.sites(first).targets[self.site].shape[1:]
        self.mean = RunningMean(shape).to(context.device)

    def modules(self) -> tuple[torch.nn.Module, ...]:
        return (self.mean,)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        count = self.share(len(batch.images))
        images, labels = batch.images.clone(), batch.labels.clone()
        images[:count], labels[:count] = self.stamped(images[:count]), self.attacker_labels(labels[:count])
        sites = self.student.sites(images)
        features = sites.targets[self.site].float()
        self.mean.add(features[count:][labels[count:] == self.target].detach())
        return {
            "ce": F.cross_entropy(sites.logits.float(), labels),
            "match": self.match * (self.mean.weight > 0) * distance(features[:count], self.mean.now()),
        }
