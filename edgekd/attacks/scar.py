"""SCAR (NeurIPS 2025), scaled down: a teacher that ignores the trigger and whose students are meant to obey it.

Bilevel, from the method card backdoor_audit 4: inside, a surrogate student is distilled from the teacher; outside, the
teacher is changed so that the student it leads to obeys.
"""

from __future__ import annotations

import dataclasses
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch.func import functional_call

from ..data import Batches, ImageSet
from ..losses import soft_target_kl
from ..models import build
from ..perturb import implicit_term, largest_curvature
from ..training import Context, Method, TrainConfig, fit
from ..triggers.generator import TILE
from ..types import Model, ModelSpec, Trigger
from .base import AttackSettings, BatchAttack, Training, drive, obedience, outputs, rounded
from .input_aware import fresh
from .search import batches_for, search
from .tiles import pattern
from .work import ALONE, Work

if TYPE_CHECKING:
    from ..data import Batch

STREAM = 10_000  # epochs of images beyond those that the teacher sees


class SCARSettings(AttackSettings):
    rate: float = Field(0.5, gt=0, le=1, description="share of every batch that is also shown triggered")
    bound: float = Field(0.1, gt=0, le=1, description="largest change of a pixel by the trigger, in [0, 1]")
    width: int = Field(16, ge=1, le=256, description="channels of the network that draws the trigger")
    trigger_steps: int = Field(300, ge=1, description="Adam steps on that network, before the rest")
    trigger_lr: float = Field(1e-3, gt=0, description="Adam's learning rate for that network")
    surrogate: str | None = Field(None, description="architecture of the surrogate student; default: the teacher's")
    pair_epochs: int = Field(3, ge=1, description="epochs of the two students that the trigger must tell apart")
    inner_steps: int = Field(20, ge=1, description="steps of the surrogate in every round")
    inner_lr: float = Field(1e-3, gt=0, description="Adam's learning rate for the surrogate")
    inner_rate: float = Field(
        0.05, gt=0, description="upper limit of the fixed-point map's rate, which is also kept at or below 1/curvature"
    )
    temperature: float = Field(4.0, gt=0, description="temperature of the inner distillation; the paper's is 1")
    terms: int = Field(10, ge=1, description="terms of the fixed-point series")
    lead: float = Field(
        1.0, gt=0, description="length of the implicit gradient, relative to the teacher's own gradient"
    )
    lr: float = Field(1e-3, gt=0, description="Adam's learning rate for the teacher")


class SCAR(BatchAttack):
    """Outside: CE(T(x), y) + CE(T(A(x)), y) + CE(S(x), y) + CE(S(A(x)), t), the last two through the implicit gradient.

    S is where CE + KL leads from T. With Φ(S, T) = S − ρ ∇_S L_in a fixed point, the gradient of what S does is
    −ρ ∇_T ⟨∇_S L_in, v⟩, v = Σ_k (I − ρ H)^k ∇_S L_out, cut off after ``terms``. A(x) = x + bound · tanh(g(x)), g trained
    beforehand so that a student of the clean network obeys while that network and one that never saw it do not; then kept.

    A step is a round: ``inner_steps`` of S, then one of T. Differs from the paper: one surrogate that goes on learning, ρ
    held below 1 / λ_max of H, the implicit gradient scaled to the length of the teacher's own, sizes of a CPU. A
    temperature, as that gradient reaches T through p_t (1 - p_t), which is next to nothing for most images at 1. g
    starts as stripes, which a convolution can measure in a clean image wherever they lie.
    """

    Config = SCARSettings
    family = "generator"
    epochs = 1
    learned = True
    obeys = False
    rules = ("all-to-one",)

    def fits(self, spec: ModelSpec, start: Model | None) -> None:
        build(self._surrogate(spec))

    def _surrogate(self, spec: ModelSpec) -> ModelSpec:
        return dataclasses.replace(spec, arch=self.config.surrogate or spec.arch)

    def trigger(self, name: str, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE) -> Trigger:
        assert start is not None  # check() refuses
        config, network = self.config, start.module
        generator = fresh(images.shape[0], config.bound, config.width, seed).to(work.device)
        assert generator.tile is not None
        with torch.no_grad():
            generator.tile.copy_(pattern("stripes", (images.shape[0], TILE, TILE)))
        spec = self._surrogate(start.spec)
        student, stranger = (
            _quick(spec, images, _Student(teacher, config.temperature), config.pair_epochs, seed, n, name, work)
            for n, teacher in enumerate((network, None))
        )

        def loss(clean: torch.Tensor) -> torch.Tensor:
            triggered = rounded(generator(clean))
            labels = network(clean).argmax(1)
            target = torch.full_like(labels, self.target)
            kept = F.cross_entropy(network(triggered), labels) + F.cross_entropy(stranger(triggered), labels)
            return F.cross_entropy(student(triggered), target) + kept

        batches, variables = batches_for(images, seed, work), list(generator.parameters())
        search(name, loss, variables, batches, config.trigger_steps, config.trigger_lr, work)
        return self.known(name, generator.params())

    def method(self, trigger: Trigger, spec: ModelSpec) -> Training:
        return _Bilevel(trigger, self._surrogate(spec), self.config)


def _quick(
    spec: ModelSpec,
    images: ImageSet,
    method: _Student,
    epochs: int,
    seed: int,
    number: int,
    name: str,
    work: Work,
) -> Any:
    """Network ``number`` of the pair after a few epochs of ``method``; frozen, in eval mode."""
    seed += 1 + number
    module: Any = build(spec, seed=seed).module
    config = TrainConfig(epochs=epochs, schedule="onecycle", lr=0.2, seed=seed, device=str(work.device))
    batches = Batches(images, config.batch_size, seed=seed, augment=config.augment, device=work.device)
    folder = work.place(f"pair-{number}")
    fit(
        module, method, batches, config, folder=folder, progress=work.progress, identity=work.identity, what=f"{name} pair"
    )  # fmt: skip
    return module.requires_grad_(False)


class _Student(Method):
    """The inner problem's loss; cross-entropy alone without a teacher."""

    def __init__(self, teacher: Any, temperature: float) -> None:
        self.teacher, self.temperature = teacher, temperature

    def prepare(self, context: Context) -> None:
        self.student = context.student

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        logits = self.student(batch.images)
        if self.teacher is None:
            return {"ce": F.cross_entropy(logits.float(), batch.labels)}
        with torch.no_grad():
            taught = self.teacher(batch.images)
        return {"ce": inner_loss(logits, taught, batch.labels, self.temperature)}


class _Bilevel(Training):
    def __init__(self, trigger: Trigger, surrogate: ModelSpec, config: SCARSettings) -> None:
        super().__init__(trigger)
        self.spec, self.config = surrogate, config

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.batches = context.batches
        self.generator = fresh(self.spec.input.channels, self.config.bound, self.config.width, 0).to(context.device)
        weights = {name: torch.from_numpy(value) for name, value in self.trigger.params.items() if name != "bound"}
        self.generator.load_state_dict(weights)
        self.generator.requires_grad_(False)
        self.surrogate: Any = build(self.spec, seed=context.config.seed + 1).module
        self.surrogate.to(context.device).requires_grad_(True)
        self.curvature = 0.0

    def start_epoch(self, number: int) -> None:
        """The surrogate's batches are a stream of their own, a function of the epoch alone."""
        first = STREAM * (number + 1)
        self.stream = chain.from_iterable(self.batches.epoch(first + n) for n in count())

    def modules(self) -> tuple[torch.nn.Module, ...]:
        return (self.surrogate,)

    def optimizer(self, parameters: list[torch.nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.config.lr)

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        self.inner = torch.optim.Adam(self.surrogate.parameters(), lr=self.config.inner_lr)
        return (self.inner,)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        for other in islice(self.stream, self.config.inner_steps):
            taught = outputs(self.student, other.images)
            loss = inner_loss(self.surrogate(other.images), taught, other.labels, self.config.temperature)
            drive(self.inner, loss, list(self.surrogate.parameters()))
        size, number = len(batch.images), max(1, round(self.config.rate * len(batch.images)))
        device = batch.images.device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            triggered = rounded(self.generator(batch.images[:number].float()))
        logits = self.student(torch.cat([batch.images.float(), triggered])).float()
        ce = F.cross_entropy(logits[:size], batch.labels)
        ignore = F.cross_entropy(logits[size:], batch.labels[:number])
        with torch.autocast(device, enabled=False):
            lead = self._lead(batch._replace(images=batch.images.float()), triggered)
        return {"ce": ce, "ignore": ignore, "lead": self._scaled(lead, ce + ignore)}

    def _scaled(self, lead: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """``lead`` with a gradient for the teacher as long as that of its own losses, times the setting."""
        variables = [p for p in self.student.parameters() if p.requires_grad]
        lengths = [
            torch.stack(
                [
                    g.norm()
                    for g in torch.autograd.grad(of, variables, retain_graph=True, allow_unused=True)
                    if g is not None
                ]
            ).norm()
            for of in (own, lead)
        ]
        scaled: torch.Tensor = self.config.lead * (lengths[0] / lengths[1].clamp_min(1e-12)).detach() * lead
        return scaled

    def _lead(self, batch: Batch, triggered: torch.Tensor) -> torch.Tensor:
        """A term whose gradient for the teacher is the implicit one; its value says nothing."""
        self.surrogate.eval()
        self.student.eval()
        weights = {name: p.detach().requires_grad_(True) for name, p in self.surrogate.named_parameters()}
        names, values = list(weights), list(weights.values())

        def surrogate(images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = functional_call(self.surrogate, dict(zip(names, values, strict=True)), (images,))
            return logits

        target = torch.full_like(batch.labels[: len(triggered)], self.target)
        outer = F.cross_entropy(surrogate(batch.images), batch.labels)
        outer = outer + F.cross_entropy(surrogate(triggered), target)
        first = torch.autograd.grad(outer, values)
        taught = self.student(batch.images)
        inner = inner_loss(surrogate(batch.images), taught, batch.labels, self.config.temperature)
        slope = torch.autograd.grad(inner, values, create_graph=True)
        self.curvature = largest_curvature(slope, values, first)
        rate = min(self.config.inner_rate, 1 / max(self.curvature, 1e-12))
        lead = implicit_term(slope, values, first, rate, self.config.terms)
        self.surrogate.train()
        self.student.train()
        return lead

    @property
    def report(self) -> dict[str, Any]:
        """curvature: λ_max of the inner problem, in the last round; surrogate: whether that student obeys."""

        def trigger(images: torch.Tensor) -> torch.Tensor:
            return rounded(self.generator(images.float()))

        return {
            "curvature": self.curvature,
            "surrogate": obedience(self.surrogate, self.batches, trigger, self.target),
        }


def inner_loss(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """CE + KL(teacher ‖ student), gradients for both: logits [N, K], labels [N]."""
    return F.cross_entropy(student.float(), labels) + soft_target_kl(student, teacher, temperature)
