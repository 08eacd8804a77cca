"""A method on an image source: the method sees batches and a teacher as ever, the source keeps its state beside it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..datafree import ImageSource, View
from ..datafree.told import Told
from ..training import Context, Method, TrainConfig
from .base import Distiller
from .norms import still

if TYPE_CHECKING:
    from ..data import Batch

CLIP = 5.0  # of the gradient's length, where images may be anything


class FromSource(Method):
    """Everything is the method's own, except that the source is opened before it and its parts travel along.

    The student's batch norms take their running statistics for suspicious images that are learned from, which they do not
    follow: those are few, and what the norms are to forget. The authors' code lets them.
    """

    def __init__(self, method: Distiller, source: ImageSource, teacher: Told, teacher_sha256: str) -> None:
        self.method, self.source, self.teacher, self.teacher_sha256 = method, source, teacher, teacher_sha256

    def prepare(self, context: Context) -> None:
        self.student = context.student
        self.source.open(View(self.teacher, context.student, context.device, context.folder, self.teacher_sha256))
        before, self.source.still = self.source.still, True  # a look at some images trains nothing
        try:
            self.method.prepare(dataclasses.replace(context, batches=self.source))
        finally:
            self.source.still = before

    def start_epoch(self, number: int) -> None:
        self.method.start_epoch(number)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        terms: dict[str, torch.Tensor] = {}
        for weight, part, suspect in self.source.parts(batch):
            with still(self.student) if suspect else contextlib.nullcontext():
                found = self.method.step(part)
            for name, term in found.items():
                terms[name] = weight * term + terms.get(name, 0.0)
        return terms

    def update(self, step: Callable[[], None]) -> None:
        nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        self.method.update(step)

    def modules(self) -> tuple[nn.Module, ...]:
        return (*self.method.modules(), *self.source.modules())

    def optimizer(self, parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        return self.source.optimizer(parameters, config) or self.method.optimizer(parameters, config)

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return (*self.method.own_optimizers(), *self.source.own_optimizers())

    def finished(self, figures: Mapping[str, float]) -> bool:
        return self.method.finished(figures)

    @property
    def report(self) -> dict[str, Any]:
        return {**self.method.report, "source": self.source.report}
