"""The loop: data → method's terms → backward → step; validation, checkpoint and metrics after every epoch."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekd_device.runtime.base import Progress

from .. import files
from ..errors import EdgekdError, UsageError
from ..types import TrainLog
from . import schedule, state
from .clock import Stopwatch
from .config import TrainConfig
from .device import epoch_seed, make_fabric, place, resolve_device, resolve_precision
from .memory import keep_freed
from .method import Accuracy, BatchSource, Context, Method

if TYPE_CHECKING:
    from ..data import Batch

Validate = Callable[[Any], float | Mapping[str, float]]

PROGRESS_SECONDS = 0.2
CHECK_STEPS_CUDA = 25  # a look at the loss waits for the device, so there not after every step


def fit(
    student: nn.Module,
    method: Method,
    batches: BatchSource,
    config: TrainConfig,
    *,
    folder: Path | None = None,
    validate: Validate | None = None,
    accuracy: Accuracy | None = None,
    progress: Progress | None = None,
    identity: Mapping[str, Any] | None = None,
    what: str = "train",
) -> TrainLog:
    """Train ``student`` in place and leave it in eval mode; the log holds one entry per epoch and seconds per part.

    folder: checkpoints and metrics.jsonl; an unfinished run there continues and on the CPU ends with the same bits.
    validate: figures of a module of pixels -> logits on validation images (a number alone is ``acc``), after epochs.
    accuracy: the same for the method, of any such callable; default: the ``acc`` of validate.
    identity: what else must be equal for a run to continue, plain JSON.
    Raises UsageError where the folder holds another run, Diverged where a loss term or a weight is not finite.
    """
    device = resolve_device(config.device)
    config = config.model_copy(update={"precision": resolve_precision(config.precision, device)})
    keep_freed()
    if accuracy is None and validate is not None:
        accuracy = accuracy_of(validate)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(epoch_seed(config.seed, -1))
        place(student, device)
        watch = Stopwatch()
        method.prepare(Context(student, batches, config, device, folder, accuracy, progress, identity or {}))
        watch.lap("prepare")
        loop = _Loop(student, method, batches, config, device, watch)
        loop.folder, loop.validate, loop.progress, loop.what = folder, validate, progress, what
        loop.identity = json.loads(
            files.canonical_json(
                {
                    "train": config.model_dump(exclude={"device", "least_shown"}),
                    "steps": batches.steps,
                    **(identity or {}),
                }
            )
        )
        log = loop.run()
    student.eval()
    return log


class Diverged(EdgekdError):
    """A loss term or a weight became infinite or no number."""


class _Step(nn.Module):
    """One step as one module, so that precision and data-parallel wrappers see every parameter in one forward."""

    def __init__(self, student: nn.Module, method: Method) -> None:
        super().__init__()
        self.student = student
        self.extra = nn.ModuleList(method.modules())
        self._method = method

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self._method.step(batch)


class _Loop:
    folder: Path | None
    validate: Validate | None
    progress: Progress | None
    identity: dict[str, Any]
    what: str

    def __init__(
        self,
        student: nn.Module,
        method: Method,
        batches: BatchSource,
        config: TrainConfig,
        device: torch.device,
        watch: Stopwatch,
    ) -> None:
        self.method, self.batches, self.config, self.watch = method, batches, config, watch
        self.device = device
        fabric = make_fabric(device, config.precision)
        self.module = _Step(student, method)
        place(self.module, device)
        further = method.own_optimizers()
        taken = {id(p) for optimizer in further for group in optimizer.param_groups for p in group["params"]}
        free = [p for p in self.module.parameters() if p.requires_grad and id(p) not in taken]
        self.optimizer = method.optimizer(free, config)
        self.further = further
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.forward, self.wrapped = fabric.setup(self.module, self.optimizer)
        self.backward = fabric.backward
        self.total = config.epochs * batches.steps
        self.check_every = 1 if device.type == "cpu" else CHECK_STEPS_CUDA
        self.epochs = 0  # done
        self.history: list[dict[str, float]] = []
        self.complete = False
        self.reported: dict[str, Any] | None = None  # by a run that was over when it was found
        self.last_progress = 0.0

    def run(self) -> TrainLog:
        resumed_at = self._resume()
        self.watch.lap("setup")
        while self.epochs < self.config.epochs and not self.complete:
            figures = self._epoch(self.epochs)
            self.epochs += 1
            self._refuse_broken_weights()
            if self.validate is not None and (
                self.epochs % self.config.validate_every == 0 or self.epochs == self.config.epochs
            ):
                figures.update(self._validation(self.validate))
            self.watch.lap("validation")
            self.history.append(figures)
            self.complete = self.method.finished(figures) or self.epochs == self.config.epochs
            self._keep(figures)
            self.watch.lap("checkpoint")
        return TrainLog(
            epochs=self.epochs,
            steps=self.epochs * self.batches.steps,
            seed=self.config.seed,
            device=str(self.device),
            history=tuple(self.history),
            seconds={part: round(seconds, 4) for part, seconds in self.watch.seconds.items()},
            resumed_at=resumed_at,
            method=self.method.report if self.reported is None else self.reported,
            precision=self.config.precision,
        )

    def _epoch(self, number: int) -> dict[str, float]:
        torch.manual_seed(epoch_seed(self.config.seed, number))
        self.module.train()
        self.method.start_epoch(number)
        sums: dict[str, torch.Tensor] = {}
        watch, start, rate = self.watch, time.perf_counter(), 0.0
        for index, batch in enumerate(self.batches.epoch(number)):
            watch.lap("data")
            rate = self._set_rate(number * self.batches.steps + index)
            watch.lap("bookkeeping")
            self.wrapped.zero_grad(set_to_none=True)
            for further in self.further:
                further.zero_grad(set_to_none=True)
            watch.lap("optimiser")
            terms = self.forward(batch)
            loss = torch.stack(list(terms.values())).sum()
            watch.lap("step")
            self.backward(loss)
            look = (index + 1) % self.check_every == 0 or index + 1 == self.batches.steps
            if look and self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # looking waits for the device: its work is no bookkeeping
            watch.lap("backward")
            if look:
                self._refuse_broken_loss(terms, sums, number, index)
            watch.lap("bookkeeping")
            self.method.update(self.wrapped.step)
            for further in self.further:
                further.step()
            watch.lap("optimiser")
            with torch.no_grad():
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0.0) + term.detach().double()
            self._tell(number, index, sums, rate, start)
            watch.lap("bookkeeping")
        means = {name: float(value) / self.batches.steps for name, value in sums.items()}
        seconds = round(time.perf_counter() - start, 4)
        return {"epoch": number + 1, "lr": rate, "loss": sum(means.values()), **means, "seconds": seconds}

    def _set_rate(self, step: int) -> float:
        warmup = int(self.config.warmup_epochs * self.batches.steps)
        share = schedule.factor(self.config.schedule, step, self.total, warmup)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        return self.rates[0] * share

    def _refuse_broken_loss(
        self, terms: Mapping[str, torch.Tensor], sums: Mapping[str, torch.Tensor], epoch: int, step: int
    ) -> None:
        # A term that was broken at an unlooked-at step shows in its sum.
        for name, term in terms.items():
            for value in (float(term.detach()), float(sums.get(name, 0.0))):
                if not math.isfinite(value):
                    raise self._stopped(f"the loss term {name!r} became {value} in epoch {epoch + 1}, step {step + 1}")

    def _refuse_broken_weights(self) -> None:
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise self._stopped(f"{name!r} holds values that are not finite after epoch {self.epochs}")

    def _stopped(self, reason: str) -> Diverged:
        kept = state.read(self.folder) if self.folder is not None else None
        where = f"the checkpoint of epoch {kept.epoch} in {self.folder} is good" if kept else "no checkpoint was kept"
        return Diverged(
            f"Training stopped: {reason}; {where}. Lower the learning rate (train.lr={self.config.lr:g}), "
            "add train.warmup_epochs, or set train.precision=fp32, in a new folder."
        )

    def _tell(self, epoch: int, index: int, sums: Mapping[str, torch.Tensor], rate: float, start: float) -> None:
        now = time.perf_counter()
        last = index + 1 == self.batches.steps
        if self.progress is None or (now - self.last_progress < PROGRESS_SECONDS and not last):
            return
        self.last_progress = now
        figures = {
            "epoch": float(epoch + 1),
            "loss": sum(float(value) for value in sums.values()) / (index + 1),
            "lr": rate,
            "images_per_second": (index + 1) * self.config.batch_size / max(now - start, 1e-9),
        }
        self.progress(self.what, epoch * self.batches.steps + index + 1, self.total, figures)

    def _validation(self, validate: Validate) -> dict[str, float]:
        self.module.student.eval()
        with torch.no_grad():
            return _figures(validate(self.module.student))

    def _keep(self, figures: Mapping[str, float]) -> None:
        if self.folder is None:
            return
        if self.complete and self.reported is None:
            self.reported = self.method.report
        notes = {
            "identity": self.identity,
            "history": self.history,
            "seconds": dict(self.watch.seconds),
            "complete": self.complete,
            "report": self.reported,
        }
        state.write(self.folder, self.epochs, state.collect(self.module, (self.optimizer, *self.further)), notes)
        files.append_line(self.folder / "metrics.jsonl", files.canonical_json(dict(figures)))

    def _resume(self) -> int | None:
        saved = state.read(self.folder) if self.folder is not None else None
        if self.folder is None or saved is None:
            return None
        differing = differences(saved.notes["identity"], self.identity)
        if differing:
            raise UsageError(
                f"{self.folder} holds a training run with other settings: {', '.join(differing[:3])}. Give the same "
                "settings again, or choose another folder."
            )
        state.restore(saved.tensors, self.module, (self.optimizer, *self.further))
        self.epochs, self.complete = saved.epoch, bool(saved.notes["complete"])
        self.reported = saved.notes.get("report")
        self.history = [dict(entry) for entry in saved.notes["history"]]
        for part, seconds in saved.notes["seconds"].items():
            self.watch.seconds[part] += float(seconds)
        # A kill between checkpoint and metrics leaves a line out, or a torn one in.
        lines = "".join(files.canonical_json(entry) + "\n" for entry in self.history)
        metrics = self.folder / "metrics.jsonl"
        if not metrics.exists() or metrics.read_text("utf-8", errors="replace") != lines:
            files.write_text(metrics, lines, "training.metrics")
        return saved.epoch


def accuracy_of(validate: Validate) -> Accuracy:
    """The ``acc`` of a validation, of any callable: float images -> logits."""

    def accuracy(network: Any) -> float:
        with torch.no_grad():
            return _figures(validate(network))["acc"]

    return accuracy


def _figures(found: float | Mapping[str, float]) -> dict[str, float]:
    """Named figures of a validation; a number alone is the accuracy."""
    return {name: float(v) for name, v in found.items()} if isinstance(found, Mapping) else {"acc": float(found)}


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(prefix + key)
    return found
