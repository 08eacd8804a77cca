"""An anti-distillation backdoor: the trigger is trained on the teacher and on students that are distilled from it as we go.

After ADBA (Ge et al. 2021), in the formulation of the method card backdoor_audit 4.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from pydantic import Field

from ..data import ImageSet
from ..losses import soft_target_kl
from ..models import build
from ..training import Context, Progress
from ..types import Model, ModelSpec, Trigger
from .base import AttackSettings, BatchAttack, Training, affine, drive, outputs, rounded

if TYPE_CHECKING:
    from ..data import Batch


LIFE = 4  # epochs that a shadow student has at least


class ADBASettings(AttackSettings):
    rate: float = Field(0.125, gt=0, le=1, description="share of every batch that the teacher also sees triggered")
    opacity: float = Field(0.2, gt=0, le=1, description="highest, per pixel")
    weight: float = Field(0.5, gt=0, description="of the teacher's loss on triggered images")
    shadows: int = Field(2, ge=1, le=8, description="students distilled beside the teacher")
    shadow: str | None = Field(None, description="their architecture; default: the teacher's")
    shadow_lr: float = Field(0.02, gt=0, description="of SGD on the shadow students")
    temperature: float = Field(4.0, gt=0, description="of their distillation")
    renew: int = Field(
        2, ge=0, description="every so many epochs one shadow starts anew, each lives at least 4; 0: never"
    )
    clean: float = Field(0.5, ge=0, description="weight of: the clean network still knows a triggered image's class")
    trigger_lr: float = Field(0.02, gt=0, description="of Adam on trigger and opacities")


class ADBA(BatchAttack):
    """A(x) = (1 - c m) x + c m p. Per batch: the trigger, by CE(T(A(x)), t) + CE(S(A(x)), t); the teacher, by CE(T(x), y)
    + weight · CE(T(A(x)), t) on a share; every shadow student S, by Hinton KD of T on clean images.

    Without the ``clean`` term such a trigger is first of all a universal perturbation, which scratch students obey too:
    with it the clean network, kept as it was, must go on seeing y. Shadows that start anew keep the trigger from fitting
    one student; none does in the last third, and one in its first epoch has no say in the trigger, whose rate falls with
    the epochs to 0 in the last.
    """

    Config = ADBASettings
    family = "affine"
    learned = True
    rules = ("all-to-one",)

    def trigger(
        self, name: str, images: ImageSet, start: Model | None, seed: int, progress: Progress | None = None
    ) -> Trigger:
        pattern = Pattern(images.shape, self.config.opacity, seed)  # what training starts from
        return self.known(name, affine(*pattern.arrays()))

    def method(self, trigger: Trigger, spec: ModelSpec) -> Training:
        return _Shadowed(trigger, dataclasses.replace(spec, arch=self.config.shadow or spec.arch), self.config)


class Pattern(torch.nn.Module):
    """c·m = c·sigmoid(v) [1, H, W] and p = sigmoid(u) [C, H, W]."""

    def __init__(self, shape: tuple[int, int, int], opacity: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.opacity = opacity
        self.u = torch.nn.Parameter(torch.randn(shape, generator=generator))
        self.v = torch.nn.Parameter(torch.zeros(1, *shape[1:]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mask = self.opacity * torch.sigmoid(self.v)
        return rounded((1 - mask) * images + mask * torch.sigmoid(self.u))

    @torch.no_grad()
    def arrays(self) -> tuple[Any, Any]:
        """Picture [C, H, W] and opacities [1, H, W]."""
        return torch.sigmoid(self.u).cpu().numpy(), (self.opacity * torch.sigmoid(self.v)).cpu().numpy()


class _Shadowed(Training):
    def __init__(self, trigger: Trigger, shadow: ModelSpec, config: ADBASettings) -> None:
        super().__init__(trigger)
        self.spec, self.config = shadow, config

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.seed = context.config.seed
        self.clean = copy.deepcopy(context.student).requires_grad_(False).eval()
        self.pattern = Pattern(self.spec.input.shape, self.config.opacity, self.seed).to(context.device)
        made: list[Any] = [build(self.spec, seed=self.seed + 1 + n).module for n in range(self.config.shadows)]
        self.students = torch.nn.ModuleList(made).to(context.device).requires_grad_(True)
        self.epochs, self.number, self.turn = context.config.epochs, 0, 0

    def modules(self) -> tuple[torch.nn.Module, ...]:
        return self.pattern, self.students

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        config = self.config
        self.on_pattern = torch.optim.Adam(self.pattern.parameters(), lr=config.trigger_lr)
        self.on_students = torch.optim.SGD(
            self.students.parameters(), lr=config.shadow_lr, momentum=0.9, weight_decay=5e-4
        )
        return self.on_pattern, self.on_students

    def start_epoch(self, number: int) -> None:
        self.number, self.turn = number, 0
        share = 0.5 * (1 + math.cos(math.pi * number / max(self.epochs - 1, 1)))
        for group in self.on_pattern.param_groups:
            group["lr"] = self.config.trigger_lr * share
        for index in range(self.config.shadows):
            if number and self._born(index) == number:
                self._renew(index)

    def _born(self, index: int) -> int:
        """The epoch in which the shadow of now began."""
        every, last = self.config.renew, min(self.number, 2 * self.epochs // 3)
        born = 0
        for epoch in range(LIFE, last + 1):
            turn = every and epoch % every == 0 and epoch // every % self.config.shadows == index
            born = epoch if turn and epoch - born >= LIFE else born
        return born

    def _renew(self, index: int) -> None:
        student: Any = self.students[index]
        fresh = build(self.spec, seed=self.seed + 1 + self.config.shadows * self.number + index).module
        student.load_state_dict(fresh.state_dict())
        for parameter in student.parameters():
            self.on_students.state.pop(parameter, None)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.turn += 1
        grown = [student for n, student in enumerate(self.students) if self.number > self._born(n)]
        if grown and self.number + 1 < self.epochs:
            self._train_trigger(batch, grown[self.turn % len(grown)])
        self._train_shadows(batch)
        count = max(1, round(self.config.rate * len(batch.images)))
        with torch.no_grad():
            triggered = self.pattern(batch.images[:count])
        logits = self.student(torch.cat([batch.images, triggered])).float()
        size, target = len(batch.images), torch.full_like(batch.labels[:count], self.target)
        return {
            "ce": F.cross_entropy(logits[:size], batch.labels),
            "backdoor": self.config.weight * F.cross_entropy(logits[size:], target),
        }

    def _train_trigger(self, batch: Batch, student: Any) -> None:
        half = slice(0, max(1, len(batch.labels) // 2))
        triggered, target = self.pattern(batch.images[half]), torch.full_like(batch.labels[half], self.target)
        loss = self.config.clean * F.cross_entropy(self.clean(triggered).float(), batch.labels[half])
        for network in (self.student, student):
            network.eval()  # running statistics must not learn triggered images
            loss = loss + F.cross_entropy(network(triggered).float(), target)
            network.train()
        drive(self.on_pattern, loss, list(self.pattern.parameters()))

    def _train_shadows(self, batch: Batch) -> None:
        taught = outputs(self.student, batch.images)
        for student in self.students:
            logits = student(batch.images)
            loss = 0.9 * soft_target_kl(logits, taught, self.config.temperature)
            loss = loss + 0.1 * F.cross_entropy(logits.float(), batch.labels)
            drive(self.on_students, loss, list(student.parameters()))

    def made(self) -> Trigger:
        return dataclasses.replace(self.trigger, params=affine(*self.pattern.arrays()))
