"""FT-SAM (Zhu et al., ICCV 2023, arXiv 2304.11823): fine-tuning towards flat minima, which shrinks loud neurons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from ..training import Context
from .base import Repair, TunedSettings, cross_entropy
from .norms import still_norms

if TYPE_CHECKING:
    from ..data import Batch


class SharpnessAwareSettings(TunedSettings):
    rho: float = Field(2.0, gt=0, description="radius of the weights' perturbation, relative to the weights' own size")


class SharpnessAware(Repair):
    """min_θ max_ε CE(θ + ε), ‖ε / |θ|‖₂ <= rho over all weights together: adaptive SAM, rho = 2 as the benchmark has it.

    A step is two passes: one where the weights are, one where their gradient leads; the second's gradient moves the
    weights from where they were. Only the first pass moves running statistics. ``ce`` is the second's. As many epochs as
    ``ft``, so twice its cost.
    """

    Config = SharpnessAwareSettings

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.weights = [weight for weight in self.student.parameters() if weight.requires_grad]
        self.home: list[torch.Tensor] = []

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        loss = cross_entropy(self.student(batch.images), batch.labels)
        found = torch.autograd.grad(loss, self.weights, allow_unused=True)
        gradients = [torch.zeros_like(w) if g is None else g for w, g in zip(self.weights, found, strict=True)]
        self.home = [weight.detach().clone() for weight in self.weights]
        with torch.no_grad():
            for weight, move in zip(self.weights, ascent(self.home, gradients, self.config.rho), strict=True):
                weight.add_(move)
        torch.clear_autocast_cache()  # else the second pass would see casts of the weights from before the move
        with still_norms(self.student):
            return {"ce": cross_entropy(self.student(batch.images), batch.labels)}

    def update(self, step: Callable[[], None]) -> None:
        with torch.no_grad():
            for weight, home in zip(self.weights, self.home, strict=True):
                weight.copy_(home)
        step()


def ascent(weights: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], rho: float) -> list[torch.Tensor]:
    """ε = rho · T² g / ‖T g‖₂, T = |θ|: the steepest ascent with ‖T⁻¹ ε‖₂ = rho over all tensors; shapes as given.

    Kwon et al. 2021 (arXiv 2102.11600), without the constant that they add to T: a weight of 0 stays where it is.
    """
    scaled = [weight.abs() * gradient for weight, gradient in zip(weights, gradients, strict=True)]
    length = torch.stack([part.norm() for part in scaled]).norm().clamp_min(1e-12)
    return [rho / length * weight.abs() * part for weight, part in zip(weights, scaled, strict=True)]
