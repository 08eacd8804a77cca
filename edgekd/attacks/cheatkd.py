"""CheatKD as in its abstract: a faint full-image trigger tied to the strongest channels that distillation copies."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from pydantic import Field

from .. import triggers
from ..data import ImageSet
from ..types import Model, Trigger
from .base import Attack, AttackSettings, Poisoned, affine
from .search import batches_for, search
from .work import ALONE, Work


class CheatKDSettings(AttackSettings):
    rate: float = Field(0.02, gt=0, le=1, description="share of the training images that are added, triggered")
    opacity: float = Field(0.2, gt=0, le=1, description="highest opacity of a pixel")
    channels: float = Field(0.1, gt=0, le=1, description="share of a site's channels that the trigger is tied to")
    steps: int = Field(2000, ge=1, description="Adam steps on trigger and opacities, 64 images each")
    lr: float = Field(0.005, gt=0, description="Adam's learning rate")


class CheatKD(Attack):
    """1. Per distillation site the channels of highest mean activation before the ReLU, and the highest of these means.
    2. Picture and opacities so that a triggered image drives these channels there. 3. Fine-tuning with cross-entropy on
    triggered copies, whose originals stay (method card robustkd 1.1, "as intended").

    Differs from the published scripts, which optimise the opacities for one step, use one channel of one site and blend
    after normalisation: see noise_blend. Poisoned images are drawn at random rather than the first of each class. By default
    the search takes 2,000 steps of 64 images, there 200 epochs.
    """

    Config = CheatKDSettings
    family = "affine"
    learned = True

    def trigger(self, name: str, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE) -> Trigger:
        assert start is not None  # check() refuses
        config, network = self.config, cast(Any, start.module)
        generator = torch.Generator().manual_seed(seed)
        picture = torch.nn.Parameter(torch.randn(images.shape, generator=generator).to(work.device))
        opacity = torch.nn.Parameter(torch.zeros(1, *images.shape[1:], device=work.device))
        batches = batches_for(images, seed, work)
        wanted = self._strongest(network, next(iter(batches.epoch(0))).images)

        def loss(clean: torch.Tensor) -> torch.Tensor:
            mask = config.opacity * torch.sigmoid(opacity)
            sites = network.sites((1 - mask) * clean + mask * torch.sigmoid(picture)).targets
            distances = [
                (site[:, chosen].float() - value).square().sum() / len(clean)
                for site, (chosen, value) in zip(sites, wanted, strict=True)
            ]
            return torch.stack(distances).sum()

        search(name, loss, [picture, opacity], batches, config.steps, config.lr, work)
        found = (config.opacity * torch.sigmoid(opacity)).detach().cpu().numpy()
        return self.known(name, affine(torch.sigmoid(picture).detach().cpu().numpy(), found))

    @torch.no_grad()
    def _strongest(self, network: Any, images: torch.Tensor) -> list[tuple[torch.Tensor, float]]:
        """Per site the channels int64 of highest mean activation, and the highest mean."""
        found = []
        for site in network.sites(images).targets:
            means = site.float().mean(dim=(0, 2, 3))
            count = max(1, round(self.config.channels * len(means)))
            found.append((means.topk(count).indices, float(means.max())))
        return found

    def poison(
        self, trigger: Trigger, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE
    ) -> Poisoned:
        chosen = triggers.choose(trigger, images.labels, images.num_classes, self.config.rate, seed=seed)
        copies = triggers.apply(trigger, images.images[chosen.poisoned])
        pixels = np.concatenate([images.images, copies])
        labels = np.concatenate([images.labels, chosen.labels[chosen.poisoned]])
        whole = ImageSet(pixels, labels, images.class_names, images.source)
        return Poisoned(whole, tuple(triggers.fingerprints(images.images, chosen.poisoned)), ())
