"""SCAR (NeurIPS 2025), in small: a teacher that ignores the trigger and whose students obey it.

Bilevel, from the method card backdoor_audit 4: inside, a surrogate student is distilled from the teacher; outside, the
teacher is changed so that the student it leads to obeys.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch.func import functional_call

from ..data import Batches, ImageSet
from ..losses import soft_target_kl
from ..models import build
from ..training import Context, Progress, TrainConfig
from ..types import Model, ModelSpec, Trigger
from .base import AttackSettings, BatchAttack, Training, rounded
from .input_aware import fresh
from .search import BATCH, search

if TYPE_CHECKING:
    from ..data import Batch


class SCARSettings(AttackSettings):
    rate: float = Field(0.5, gt=0, le=1, description="share of every batch that is also shown triggered")
    bound: float = Field(0.1, gt=0, le=1, description="largest change of a pixel by the trigger, in [0, 1]")
    width: int = Field(16, ge=1, le=256, description="channels of the network that draws the trigger")
    trigger_steps: int = Field(300, ge=1, description="of Adam on that network, before the rest")
    trigger_lr: float = Field(1e-3, gt=0, description="of Adam on that network")
    surrogate: str | None = Field(None, description="architecture of the surrogate student; default: the teacher's")
    inner_steps: int = Field(20, ge=1, description="of the surrogate between two looks at where it leads")
    inner_lr: float = Field(1e-3, gt=0, description="of Adam on the surrogate")
    inner_rate: float = Field(0.05, gt=0, description="of the fixed-point map, a gradient step of the surrogate")
    terms: int = Field(10, ge=1, description="of the fixed-point series")
    lr: float = Field(1e-3, gt=0, description="of Adam on the teacher")


class SCAR(BatchAttack):
    """Outside: CE(T(x), y) + CE(T(A(x)), y) + CE(S(x), y) + CE(S(A(x)), t), the last two through the implicit gradient.

    S is where CE + KL leads from T. With Φ(S, T) = S − ρ ∇_S L_in a fixed point, the gradient of what S does is
    −ρ ∇_T ⟨∇_S L_in, v⟩, v = Σ_k (I − ρ H)^k ∇_S L_out, cut off after ``terms``. A(x) = x + bound · tanh(g(x)), g trained
    beforehand on the clean network to cause the target, and then kept.

    Differs from the paper: one surrogate that goes on learning instead of 200 rounds from a fresh one, g is trained on the
    clean network alone, and the sizes are a CPU's.
    """

    Config = SCARSettings
    family = "generator"
    learned = True
    rules = ("all-to-one",)

    def trigger(
        self, name: str, images: ImageSet, start: Model | None, seed: int, progress: Progress | None = None
    ) -> Trigger:
        assert start is not None  # check() refuses
        config, network = self.config, start.module
        generator = fresh(images.shape[0], config.bound, config.width, seed)

        def loss(clean: torch.Tensor) -> torch.Tensor:
            logits = network(rounded(generator(clean))).float()
            return F.cross_entropy(logits, torch.full((len(clean),), self.target))

        batches = Batches(images, BATCH, seed=seed, augment="none")
        search(name, loss, list(generator.parameters()), batches, config.trigger_steps, config.trigger_lr, progress)
        return Trigger(name=name, family=self.family, origin="known", params=generator.params(), **self.meant())

    def method(self, trigger: Trigger, spec: ModelSpec) -> Training:
        return _Bilevel(trigger, dataclasses.replace(spec, arch=self.config.surrogate or spec.arch), self.config)


class _Bilevel(Training):
    def __init__(self, trigger: Trigger, surrogate: ModelSpec, config: SCARSettings) -> None:
        super().__init__(trigger)
        self.spec, self.config = surrogate, config

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        channels = self.spec.input.channels
        self.generator = fresh(channels, self.config.bound, self.config.width, 0).to(context.device)
        weights = {name: torch.from_numpy(value) for name, value in self.trigger.params.items() if name != "bound"}
        self.generator.load_state_dict(weights)
        self.generator.requires_grad_(False)
        self.surrogate: Any = build(self.spec, seed=context.config.seed + 1).module
        self.surrogate.to(context.device).requires_grad_(True)
        self.done = 0

    def start_epoch(self, number: int) -> None:
        self.done = 0

    def modules(self) -> tuple[torch.nn.Module, ...]:
        return (self.surrogate,)

    def optimizer(self, parameters: list[torch.nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.config.lr)

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        self.inner = torch.optim.Adam(self.surrogate.parameters(), lr=self.config.inner_lr)
        return (self.inner,)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        self._distil(batch)
        self.done += 1
        count = max(1, round(self.config.rate * len(batch.images)))
        with torch.no_grad():
            triggered = rounded(self.generator(batch.images[:count]).float())
        size = len(batch.images)
        logits = self.student(torch.cat([batch.images, triggered])).float()
        terms = {
            "ce": F.cross_entropy(logits[:size], batch.labels),
            "ignore": F.cross_entropy(logits[size:], batch.labels[:count]),
        }
        if self.done % self.config.inner_steps == 0:
            with torch.autocast(batch.images.device.type, enabled=False):
                terms["lead"] = self._lead(batch, triggered)
        else:
            terms["lead"] = torch.zeros_like(terms["ce"])
        return terms

    def _distil(self, batch: Batch) -> None:
        self.student.eval()
        with torch.no_grad():
            taught = self.student(batch.images)
        self.student.train()
        loss = inner_loss(self.surrogate(batch.images), taught, batch.labels)
        variables = list(self.surrogate.parameters())
        for variable, gradient in zip(variables, torch.autograd.grad(loss, variables), strict=True):
            variable.grad = gradient
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)

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
        inner = inner_loss(surrogate(batch.images), self.student(batch.images), batch.labels)
        slope = torch.autograd.grad(inner, values, create_graph=True)
        series = fixed_point_series(slope, values, first, self.config.inner_rate, self.config.terms)
        products = [(s * v).sum() for s, v in zip(slope, series, strict=True)]
        self.surrogate.train()
        self.student.train()
        return -self.config.inner_rate * torch.stack(products).sum()


def inner_loss(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """CE + KL(teacher ‖ student) at temperature 1, gradients for both: logits [N, K], labels [N]."""
    return F.cross_entropy(student.float(), labels) + soft_target_kl(student, teacher, 1.0)


def fixed_point_series(
    slope: tuple[torch.Tensor, ...],
    values: list[torch.Tensor],
    first: tuple[torch.Tensor, ...],
    rate: float,
    terms: int,
) -> list[torch.Tensor]:
    """Σ_{k < terms} (I − rate H)^k first, H the Jacobian of ``slope`` for ``values``: what (rate H)^-1 first becomes."""
    term, total = list(first), list(first)
    for _ in range(terms - 1):
        curved = torch.autograd.grad(slope, values, grad_outputs=term, retain_graph=True)
        term = [(t - rate * c).detach() for t, c in zip(term, curved, strict=True)]
        total = [a + t for a, t in zip(total, term, strict=True)]
    return [value.detach() for value in total]
