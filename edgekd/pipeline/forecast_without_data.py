"""What a training without data will cost, from a few of its steps."""

from __future__ import annotations

import numpy as np

from .. import datafree, distill
from ..config import RunConfig
from ..data import ImageSet
from ..types import Model, ModelSpec
from .without_data import VALIDATION

STEPS, RETROSPECTION_STEPS = 8, 2


def stand_ins(teacher: Model, test: ImageSet | None) -> dict[str, ImageSet]:
    """Images as many as a run without data will have beside what it trains on; what is on them does not matter."""
    labels = np.arange(VALIDATION, dtype=np.int64) % teacher.spec.num_classes
    names = tuple(str(label) for label in range(teacher.spec.num_classes))
    random = np.random.default_rng(0).integers(0, 256, (VALIDATION, *teacher.spec.input.shape), dtype=np.uint8)
    images = ImageSet(random, labels, names, "synthetic")
    return {"train": images, "validation": images, "test": test or images}


def sourced_minutes(config: RunConfig, teacher: Model, student: ModelSpec) -> dict[str, float]:
    """Minutes of each training: the controls' by their methods, on the plain source, and the student's with the defence."""
    plain = distill.AbdSettings(vaccine=False, retrospection=False)
    found: dict[str, float] = {name: _minutes(config, name, plain, teacher, student) for name in config.controls}
    return {**found, "student": _minutes(config, config.method, config.defence, teacher, student)}


def sourced_bytes(config: RunConfig, teacher: Model) -> int:
    """What a training's source keeps of its images."""
    source = datafree.make(config.source["name"], config.source_options, teacher, config.train)
    return source.kept_bytes(teacher.module)


def _minutes(config: RunConfig, method: str, defence: distill.AbdSettings, teacher: Model, student: ModelSpec) -> float:
    """Minutes of one training. A retrospection that may come is counted."""
    train = config.train.model_copy(update={"epochs": 1, "warmup_epochs": 0})
    name, options = config.source["name"], config.source_options
    whole = datafree.make(name, options, teacher, config.train, defence.vaccine_settings)
    few, less, steps = whole.shortened(STEPS)
    source = datafree.make(name, {**options, **few}, teacher, train, defence.vaccine_settings)
    wanted = defence.retrospect.length(steps * config.train.epochs)
    tried = defence.model_copy(
        update={
            "retrospection": defence.retrospection is not False,
            "retrospect": defence.retrospect.model_copy(update={"steps": RETROSPECTION_STEPS}),
        }
    )
    _, log = distill.distill_defended(
        teacher, student, source, method, config.options(method), train, tried, accuracy=lambda network: 1.0
    )
    first = float(log.history[0]["seconds"]) / max(log.steps - (log.epochs - 1) * RETROSPECTION_STEPS, 1)
    seconds = first * steps * config.train.epochs + less * log.seconds.get("prepare", 0.0)
    if log.epochs > 1:
        seconds += float(log.history[-1]["seconds"]) / RETROSPECTION_STEPS * wanted
    return seconds / 60
