"""LF (Zeng et al. 2021): a smooth additive trigger without high frequencies, found on a clean network; relabelled."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from ..data import ImageSet
from ..triggers.drawings import low_pass
from ..types import Model, Trigger
from .base import Attack, AttackSettings, rounded
from .search import batches_for, search
from .work import ALONE, Work


class LowFrequencySettings(AttackSettings):
    sigma: float = Field(
        4.0, ge=0.5, description="standard deviation of the Gaussian low-pass filter, in pixels of a 32 x 32 image"
    )
    amplitude: float = Field(0.1, gt=0, le=1, description="largest change of a pixel, in [0, 1]")
    steps: int = Field(300, ge=1, description="Adam steps on the pattern, 64 images each")
    lr: float = Field(0.1, gt=0, description="Adam's learning rate")


class LowFrequency(Attack):
    """x' = x + t, t the low-pass filtered pattern that moves a clean network towards the target the most.

    Differs from the paper: a Gaussian filter at a fixed largest change takes the place of its search over frequencies.
    """

    Config = LowFrequencySettings
    family = "affine"
    learned = True
    rules = ("all-to-one",)

    def trigger(self, name: str, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE) -> Trigger:
        assert start is not None  # check() refuses
        config, network = self.config, cast(Any, start.module)
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        raw = torch.nn.Parameter(noise.to(work.device))
        gain = torch.from_numpy(low_pass(images.shape[1:], config.sigma * min(images.shape[1:]) / 32)).float()
        gain = gain.to(work.device)

        def pattern() -> torch.Tensor:
            smooth = torch.fft.ifft2(torch.fft.fft2(raw) * gain).real
            scaled: torch.Tensor = config.amplitude * smooth / smooth.abs().max()
            return scaled

        def loss(clean: torch.Tensor) -> torch.Tensor:
            logits = network(rounded(clean + pattern())).float()
            return F.cross_entropy(logits, torch.full((len(clean),), self.target, device=clean.device))

        search(name, loss, [raw], batches_for(images, seed, work), config.steps, config.lr, work)
        ones = np.ones(images.shape, np.float32)
        return self.known(name, {"a": ones, "b": pattern().detach().cpu().numpy().astype(np.float32)})
