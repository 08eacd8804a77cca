"""IGDM (Lee et al. 2025): matches the teacher's input gradients without a second backward pass, from logits on either side of every image."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from ..losses import indirect_slope_kl, soft_target_kl
from ..training import Settings
from .adversarial_training import PerturbationSettings, perturbed
from .base import Distiller, Needs, cross_entropy
from .norms import still
from .vetting import VettedSettings

if TYPE_CHECKING:
    from ..data import Batch


class IGDMSettings(PerturbationSettings, VettedSettings):
    ce_weight: float = Field(0.5, ge=0, description="weight of the labels")
    kd_weight: float = Field(0.5, ge=0, description="weight of Hinton KD")
    temperature: float = Field(1.0, gt=0, description="temperature of that Hinton KD")
    slope_weight: float = Field(
        1.0,
        ge=0,
        description="weight of the input gradients in the last epoch; the paper uses 1 for CIFAR-10, 10 for CIFAR-100",
    )
    direction: Literal["signs", "attack"] = Field(
        "signs",
        description="how to step to either side of an image: random signs of the bound's length, which needs forward "
        "passes only; or, as published, an attack on the student, whose images Hinton KD then sees too",
    )


class IGDM(Distiller):
    """ce_weight · CE(S(x)) + kd_weight · τ² · KL(teacher ‖ student) + w · e/E · KL(Δz_T ‖ Δz_S), Δz = z(x + d) - z(x - d).

    To first order Δz is 2 J d: Jacobians of logits, which do not vanish where a network is sure, as the slopes of its
    loss do. e/E: epoch of all. With ``direction=attack``, d = x' - x, both distillations see the attacked images, as in
    the paper, which adds this term to the best adversarial distillation at hand; random signs, the default, are our cheap
    form, and so are Hinton KD at τ = 1 and labels on the images themselves as what it is added to. x - d is not clipped to
    [0, 1], so that the difference stays central. Batch norms see x ± d by their running statistics, which follow x alone.
    It refuses a teacher that was not audited (see vetting).
    """

    Config: ClassVar[type[Settings]] = IGDMSettings
    needs: ClassVar[Needs] = "logits"

    share = 1.0  # of the slopes' weight in the epoch that runs

    def start_epoch(self, number: int) -> None:
        self.share = (number + 1) / self.epochs

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        config = self.config
        with torch.autocast(batch.images.device.type, enabled=False):  # a small difference wants all its digits
            images = batch.images.float()
            place, moved = (1, self._attack(batch)) if config.direction == "attack" else (0, self._signs(images))
            pair = torch.cat([images + moved, images - moved])
            student = [self.student(images)]
            with still(self.student):
                student += self.student(pair).chunk(2)
            with torch.no_grad():
                said = [self.teacher(images), *self.teacher(pair).chunk(2)]
            return {
                "ce": config.ce_weight * cross_entropy(student[0], batch.labels),
                "kd": config.kd_weight * soft_target_kl(student[place], said[place], config.temperature),
                "slopes": config.slope_weight
                * self.share
                * indirect_slope_kl((student[1], student[2]), (said[1], said[2])),
            }

    def _attack(self, batch: Batch) -> torch.Tensor:
        return perturbed(self.student, batch, self.config) - batch.images.float()

    def _signs(self, images: torch.Tensor) -> torch.Tensor:
        signs = 2 * torch.randint(0, 2, images.shape, device=images.device) - 1
        return signs.to(images) * float(self.config.bound)
