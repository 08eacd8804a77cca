"""ABD (Hong et al., ICML 2023): distillation under the shuffling vaccine, then self-retrospection; for any source of images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from .. import models
from ..data import ImageSet
from ..datafree import ImageSource, VaccineSettings
from ..training import Progress, Settings, TrainConfig
from ..training.device import place, resolve_device
from ..training.fit import Validate
from ..training.method import Accuracy, Method
from ..types import AuditReport, Model, ModelSpec, TrainLog
from .retrospection import RetrospectionSettings, SelfRetrospection
from .run import Around, run

if TYPE_CHECKING:
    import torch

Suspects = Callable[[np.ndarray], np.ndarray]  # images uint8 [N, C, H, W] -> bool [N]
CHUNK = 50  # most steps of retrospection between two checkpoints


class AbdSettings(Settings):
    """Both halves of ABD; without data a run has them by default."""

    vaccine: bool = Field(True, description="suspicious images are not made, or not learned from; only without data")
    retrospection: bool | Literal["auto"] = Field(
        "auto",
        description="self-retrospection after the training; auto: only if no vaccine was accepted, as in the paper",
    )
    shuffle: VaccineSettings = VaccineSettings()
    retrospect: RetrospectionSettings = RetrospectionSettings()

    @property
    def vaccine_settings(self) -> VaccineSettings | None:
        return self.shuffle if self.vaccine else None


def distill_defended(
    teacher: Model,
    student: ModelSpec,
    images: ImageSource | ImageSet,
    method: str,
    options: Mapping[str, Any],
    train: TrainConfig,
    abd: AbdSettings,
    *,
    accuracy: Accuracy,
    judge: Callable[[Suspects], Accuracy] | None = None,
    folder: Path | None = None,
    validate: Validate | None = None,
    progress: Progress | None = None,
    report: AuditReport | None = None,
) -> tuple[Model, TrainLog]:
    """``distill.run``, then self-retrospection where it is wanted; a run that was killed in ``folder`` continues.

    The vaccine is the source's own: give it to ``datafree.make``. accuracy: on images that nothing is trained on, of any
    callable on ``train.device``; labels may be the teacher's. judge: from what the accepted vaccine suspects to the
    accuracy that decides whether the retrospection is kept; without it ``accuracy`` does. Raises what ``run`` raises.
    """
    made, log = run(
        teacher, student, images, method, options, train,
        folder=None if folder is None else folder / "train", validate=validate, accuracy=accuracy, progress=progress, report=report,
    )  # fmt: skip
    accepted = log.method.get("source", {}).get("vaccine", {}).get("accepted", False)
    if not (abd.retrospection if abd.retrospection != "auto" else not accepted):
        return made, log
    settings = abd.retrospect
    pieces, steps = _pieces(settings.length(log.steps))
    shorter = train.model_copy(update={"epochs": pieces, "lr": settings.lr, "schedule": "cosine", "warmup_epochs": 0})

    def wrap(inner: Method) -> Method:
        return SelfRetrospection(inner, settings, teacher.module, student.input.std)

    after, second = run(
        teacher, student, images, method, options, shorter,
        folder=None if folder is None else folder / ("retrospection" if settings.weight else "longer"), validate=validate, accuracy=accuracy,
        progress=progress, report=report, start=models.weights(made),
        around=Around(wrap, steps, {"retrospection": settings.model_dump(mode="json")}),
    )  # fmt: skip
    device = resolve_device(train.device)
    judged = plain = [_measured(accuracy, model, device) for model in (made, after)]
    if judge is not None and not isinstance(images, ImageSet):
        by = judge(images.flagged)
        judged = [_measured(by, model, device) for model in (made, after)]
    kept = judged[1] >= judged[0] - settings.max_drop
    found = {
        "before": judged[0],
        "after": judged[1],
        "agreement": plain,
        "kept": kept,
        **{name: second.method[name] for name in ("rate", "search")},
        "start": made.sha256,
    }
    return (after if kept else made), _joined(log, second, found)


def _pieces(steps: int) -> tuple[int, int]:
    """Equal pieces of at most ``CHUNK`` steps: how many, of how many; a few steps more where no such pieces fit."""
    pieces = math.ceil(steps / CHUNK)
    return pieces, math.ceil(steps / pieces)


def _measured(accuracy: Accuracy, model: Model, device: torch.device) -> float:
    """The figure of a model that a training has put back on the CPU."""
    place(model.module, device)
    try:
        return accuracy(model.module)
    finally:
        model.module.to("cpu")


def _joined(first: TrainLog, second: TrainLog, found: dict[str, Any]) -> TrainLog:
    """One log of both trainings: epochs go on counting."""
    further = tuple({**entry, "epoch": entry["epoch"] + first.epochs} for entry in second.history)
    seconds = {
        part: first.seconds.get(part, 0.0) + second.seconds.get(part, 0.0)
        for part in {**first.seconds, **second.seconds}
    }
    return dataclasses.replace(
        first,
        epochs=first.epochs + second.epochs,
        steps=first.steps + second.steps,
        history=first.history + further,
        seconds=seconds,
        method={**first.method, "retrospection": found},
    )
