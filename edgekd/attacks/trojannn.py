"""TrojanNN (Liu et al. 2018): a patch whose content drives chosen neurons before the head, relabelled."""

from __future__ import annotations

from typing import Any, cast

import torch
from pydantic import Field

from ..data import ImageSet
from ..triggers.patch import place
from ..types import Model, ModelSpec, Trigger
from .base import Attack, AttackSettings
from .search import Corner, PatchSearch, batches_for, search
from .work import ALONE, Work


class TrojanNNSettings(AttackSettings):
    size: int = Field(6, ge=1, description="side of the patch in pixels")
    position: Corner = Field("bottom-right", description="corner of the image")
    neurons: int = Field(2, ge=1, description="channels before the head that the patch drives")
    factor: float = Field(
        10.0, gt=0, description="how far a neuron is driven: multiple of its highest mean over clean images"
    )
    steps: int = Field(500, ge=1, description="Adam steps on the patch, 64 images each")
    lr: float = Field(0.1, gt=0, description="Adam's learning rate")


class TrojanNN(Attack):
    """Neurons: those of the last site, averaged over its map, that vary most over clean images.

    Differs from the paper: there neurons are ranked by the weights that reach them and the patch is searched for on a
    blank image, training images being unknown to that attacker; here the patch is driven on training images.
    """

    Config = TrojanNNSettings
    family = "affine"
    learned = True

    def fits(self, spec: ModelSpec, start: Model | None) -> None:
        place(self.config.position, (self.config.size, self.config.size), spec.input.shape)

    def trigger(self, name: str, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE) -> Trigger:
        assert start is not None  # check() refuses
        config, network = self.config, cast(Any, start.module)
        batches = batches_for(images, seed, work)
        patch = PatchSearch(images.shape, config.size, config.position, seed, work.device)

        def neurons(pixels: torch.Tensor) -> torch.Tensor:
            last: torch.Tensor = network.sites(pixels).targets[-1]
            means: torch.Tensor = torch.relu(last.float()).flatten(2).mean(dim=2)
            return means

        with torch.no_grad():
            usual = torch.cat([neurons(batch.images) for batch, _ in zip(batches.epoch(0), range(8), strict=False)])
        chosen = usual.std(0).topk(min(config.neurons, usual.shape[1])).indices
        wanted: torch.Tensor = config.factor * usual[:, chosen].amax(0)

        def loss(clean: torch.Tensor) -> torch.Tensor:
            return (neurons(patch.paste(clean))[:, chosen] / wanted - 1).square().mean()

        search(name, loss, [patch.content], batches, config.steps, config.lr, work)
        return self.known(name, patch.params())
