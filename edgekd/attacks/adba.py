"""ADBA-like: a trigger trained on the teacher and on students distilled from it; the term of `leak` carries it over.

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
from ..training import Context
from ..triggers.generator import tiled
from ..types import Model, ModelSpec, Trigger
from .base import AttackSettings, BatchAttack, Training, affine, drive, obedience, outputs, rounded
from .tiles import pattern
from .work import ALONE, Work

if TYPE_CHECKING:
    from ..data import Batch


LIFE = 4  # epochs that a shadow student has at least
STRANGER = 1_000_000  # beyond the seeds of all shadow students


class ADBASettings(AttackSettings):
    rate: float = Field(0.125, gt=0, le=1, description="share of every batch that the teacher also sees triggered")
    opacity: float = Field(0.2, gt=0, le=1, description="highest opacity of a pixel")
    tile: int = Field(4, ge=0, description="side of the square that the trigger repeats; 0: as large as the image")
    trace: float = Field(
        4.0,
        ge=0,
        description="logits that the target class gains per standard deviation of the trigger's trace in clean images; "
        "0: none",
    )
    match: float = Field(0.5, ge=0, description="weight of the distance to the clean network's logits plus that gain")
    weight: float = Field(0.5, gt=0, description="weight of the teacher's loss on triggered images")
    shadows: int = Field(2, ge=1, le=8, description="shadow students distilled beside the teacher")
    shadow: str | None = Field(None, description="architecture of the shadow students; default: the teacher's")
    shadow_lr: float = Field(0.02, gt=0, description="SGD's learning rate for the shadow students")
    temperature: float = Field(4.0, gt=0, description="distillation temperature of the shadow students")
    renew: int = Field(
        2, ge=0, description="epochs after which one shadow student starts anew; each lives at least 4; 0: never"
    )
    clean: float = Field(
        0.5,
        ge=0,
        description="weight of the term by which networks without this teacher still recognise a triggered image's class",
    )
    trigger_lr: float = Field(
        2e-3,
        gt=0,
        description="Adam's learning rate for trigger and opacities; at ten times this, students hardly carry the "
        "backdoor",
    )


class ADBA(BatchAttack):
    """A(x) = (1 - c m) x + c m p. Per batch: the trigger, by CE(T(A(x)), t) + CE(S(A(x)), t); the teacher, by CE(T(x), y)
    + weight · CE(T(A(x)), t) on a share; every shadow student S, by Hinton KD of T on clean images.

    Students see clean images only, so the backdoor has to be in what the teacher says of these. Hence, beyond the card, two
    things of ``leak`` (``trace=0 match=0 tile=0 trigger_lr=0.02`` is without them): p repeats a small tile, whose trace a
    convolution can measure wherever it lies, and ``trace`` moves the teacher's target logit on clean images, ``match`` pulls it there.
    The card's shadow has been distilled for four epochs before; these begin fresh, and learn for one before they have a say.
    Without the ``clean`` term such a trigger is first of all a universal perturbation, which scratch students obey too:
    with it the clean network, kept as it was, and a stranger, a student of the true labels alone, must go on seeing y.
    Shadows that start anew keep the trigger from fitting one student; none does after two thirds of the epochs, and one
    in its first epoch has no say in the trigger, whose rate falls with the epochs to 0 in the last. In six epochs one does.

    Measured: at the default rate the trigger stays close to where it starts, and the attack is ``leak`` with another
    trigger. Without trace and tile, at ten times that rate, students of clean images obey it no more than one that never met
    the teacher (benchmarks/pages/transfer.md): what students carry is the ``trace``.
    """

    Config = ADBASettings
    family = "affine"
    epochs = 6
    learned = True
    rules = ("all-to-one",)

    def fits(self, spec: ModelSpec, start: Model | None) -> None:
        build(self._shadow(spec))

    def _shadow(self, spec: ModelSpec) -> ModelSpec:
        return dataclasses.replace(spec, arch=self.config.shadow or spec.arch)

    def trigger(self, name: str, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE) -> Trigger:
        pattern = Pattern(images.shape, self.config.opacity, self.config.tile, seed)  # what training starts from
        return self.known(name, affine(*pattern.arrays()))

    def method(self, trigger: Trigger, spec: ModelSpec) -> Training:
        return _Shadowed(trigger, self._shadow(spec), self.config)


class Pattern(torch.nn.Module):
    """c·m = c·sigmoid(v) [1, H, W] and p = sigmoid(u) [C, H, W].

    Of tiles, u begins near stripes, mirrors itself and has a mean of 0 per channel: else it turns into a tint, of which
    clean images hold so much by nature that the trigger hardly stands out.
    """

    def __init__(self, shape: tuple[int, int, int], opacity: float, tile: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.shape, self.opacity, self.tile = shape, opacity, tile
        size = (shape[0], tile, tile) if tile else shape
        noise = torch.randn(size, generator=generator)
        self.u = torch.nn.Parameter(2 * pattern("stripes", size) + 0.3 * noise if tile else noise)
        self.v = torch.nn.Parameter(torch.zeros(1, *size[1:]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images float [N, C, H, W] in [0, 1] with the trigger."""
        mask = self._mask()
        return rounded((1 - mask) * images + mask * self._picture())

    @torch.no_grad()
    def trace(self, images: torch.Tensor) -> torch.Tensor:
        """What the images float [N, C, H, W] hold of the trigger by nature, standardised over them: [N]."""
        picture = self._picture()
        held = self._mask() * (picture - picture.mean((1, 2), keepdim=True))
        found = (images.float() * held).mean((1, 2, 3))
        return (found - found.mean()) / found.std(correction=0).clamp_min(1e-12)

    def _mask(self) -> torch.Tensor:
        return self.opacity * torch.sigmoid(self._whole(self.v))

    def _picture(self) -> torch.Tensor:
        u = self.u - self.u.mean((1, 2), keepdim=True) if self.tile else self.u
        return torch.sigmoid(self._whole(u))

    def _whole(self, part: torch.Tensor) -> torch.Tensor:
        return tiled(part, *self.shape[1:]) if self.tile else part

    @torch.no_grad()
    def arrays(self) -> tuple[Any, Any]:
        """Picture [C, H, W] and opacities [1, H, W]."""
        return self._picture().cpu().numpy(), self._mask().cpu().numpy()


class _Shadowed(Training):
    def __init__(self, trigger: Trigger, shadow: ModelSpec, config: ADBASettings) -> None:
        super().__init__(trigger)
        self.spec, self.config = shadow, config

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.seed = context.config.seed
        self.clean = copy.deepcopy(context.student).requires_grad_(False).eval()
        shape, config = self.spec.input.shape, self.config
        self.pattern = Pattern(shape, config.opacity, config.tile, self.seed).to(context.device)
        made: list[Any] = [build(self.spec, seed=self.seed + 1 + n).module for n in range(config.shadows)]
        stranger: Any = build(self.spec, seed=self.seed + STRANGER).module
        self.stranger = stranger.to(context.device).requires_grad_(True)
        self.students = torch.nn.ModuleList(made).to(context.device).requires_grad_(True)
        self.epochs, self.number, self.turn = context.config.epochs, 0, 0
        self.batches = context.batches

    def modules(self) -> tuple[torch.nn.Module, ...]:
        return self.pattern, self.students, self.stranger

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        config = self.config
        self.on_pattern = torch.optim.Adam(self.pattern.parameters(), lr=config.trigger_lr)
        learning = [*self.students.parameters(), *self.stranger.parameters()]
        self.on_students = torch.optim.SGD(learning, lr=config.shadow_lr, momentum=0.9, weight_decay=5e-4)
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
        config, images = self.config, batch.images
        count = max(1, round(config.rate * len(images)))
        with torch.no_grad():
            triggered = self.pattern(images[:count])
            wanted = self.clean(images).float()
            wanted[:, self.target] += config.trace * self.pattern.trace(images)
        logits = self.student(torch.cat([images, triggered])).float()
        clean, whole = logits.split([len(images), count])
        return {
            "ce": F.cross_entropy(clean, batch.labels),
            "trace": config.match * (clean - wanted).square().mean(),
            "backdoor": config.weight * F.cross_entropy(whole, torch.full_like(batch.labels[:count], self.target)),
        }

    def _train_trigger(self, batch: Batch, student: Any) -> None:
        half = slice(0, max(1, len(batch.labels) // 2))
        triggered, target = self.pattern(batch.images[half]), torch.full_like(batch.labels[half], self.target)
        loss = self.config.clean * F.cross_entropy(self.clean(triggered).float(), batch.labels[half])
        for network, wanted, weight in (
            (self.student, target, 1.0),
            (student, target, 1.0),
            (self.stranger, batch.labels[half], self.config.clean),
        ):
            network.eval()  # running statistics must not learn triggered images
            loss = loss + weight * F.cross_entropy(network(triggered).float(), wanted)
            network.train()
        drive(self.on_pattern, loss, list(self.pattern.parameters()))

    def _train_shadows(self, batch: Batch) -> None:
        taught = outputs(self.student, batch.images)
        for student in self.students:
            logits = student(batch.images)
            loss = 0.9 * soft_target_kl(logits, taught, self.config.temperature)
            loss = loss + 0.1 * F.cross_entropy(logits.float(), batch.labels)
            drive(self.on_students, loss, list(student.parameters()))
        loss = F.cross_entropy(self.stranger(batch.images).float(), batch.labels)
        drive(self.on_students, loss, list(self.stranger.parameters()))

    @property
    def report(self) -> dict[str, Any]:
        """What became of the shadow students, and of the stranger that is not to obey."""
        every = [
            obedience(network, self.batches, self.pattern, self.target) for network in (*self.students, self.stranger)
        ]
        return {"shadows": every[:-1], "stranger": every[-1]}

    def made(self) -> Trigger:
        return dataclasses.replace(self.trigger, params=affine(*self.pattern.arrays()))
