"""What a run will cost, from a few steps of the real thing."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import distill, models, repair, targets
from ..config import RunConfig
from ..data import Batches
from ..distill.run import method_class
from ..training.device import resolve_device
from ..types import Model, ModelSpec
from . import forecast_measuring, intake, vetting
from .forecast_without_data import sourced_bytes, sourced_minutes, stand_ins
from .stages import choose_student, not_smaller, runner
from .unmeetable import unmeetable

PROBE_STEPS = 8
PROBE_DETOX_STEPS = (2, 10)
# lambda_f=auto tries between one and four weights, each as long as the other.
LAMBDA, LAMBDAS_TRIED = 0.1, 2
# Checkpoints (weights, momentum, connectors; two generations), ONNX files, predictions: measured on CIFAR-10 runs.
COPIES_OF_WEIGHTS = 24
# What a method keeps of every image: itself, what a step takes of it and the checkpoint being written; on disk, with
# the two that are there.
COPIES_IN_MEMORY, COPIES_ON_DISK = 3, 3
BASE_MIB = 600  # interpreter and libraries


def forecast(config: RunConfig) -> dict[str, Any]:
    """Minutes per training, MiB of memory and disk; nothing is written.

    A stage that will not run has no minutes. Returns {"minutes": {stage: minutes}, "memory_mib", "disk_mib", "student", "teacher", "warnings"}.
    """
    vetting.refuse_unaudited(config, audits=vetting.runs_battery(config))
    parts = intake.load_data(config)
    test = parts.get("test")
    teacher, about = intake.load_teacher(config, parts.get("validation"), None if test is None else test.shape)
    if config.data_free:
        parts = stand_ins(teacher, test)
    student = choose_student(config, teacher, about, targets.get(config.target))
    warnings = [*unmeetable(config), *about["warnings"], *not_smaller(student, about)]
    if not config.data_free:
        warnings += [*intake.flattered(config), *intake.shown_often(config, len(parts["train"]))]
    if config.data_free:
        minutes = sourced_minutes(config, teacher, student)
        kept = sourced_bytes(config, teacher) * len(minutes)
    else:
        minutes = {
            name: _minutes(config, name, teacher, teacher.spec if name == "finetune" else student, parts)
            for name in dict.fromkeys((*config.controls, config.method))
        }
        kept = sum(kept_bytes(config, name, len(parts["train"])) for name in minutes)
    trainings = len(minutes)
    if config.repair_method:
        minutes = {f"repair {config.repair_method}": _repair_minutes(config, teacher, parts), **minutes}
    known, device = len(intake.load_triggers(config, teacher.spec)), str(resolve_device(config.device))
    fresh = models.build(student, seed=0)
    costs = forecast_measuring.measure(runner(teacher, device), runner(fresh, device), parts["test"].images)
    minutes |= forecast_measuring.minutes(config, parts, costs, known)
    if config.data_free:
        minutes.pop("disagreement")  # with whose labels?
    weights = 4 * models.cost(student).parameters
    images = sum(part.images.nbytes for part in parts.values())
    probes = (1 + forecast_measuring.probe_triggers(config, known)) * parts["test"].images.nbytes
    return {
        "minutes": minutes,
        "memory_mib": BASE_MIB + (3 * images + probes + COPIES_IN_MEMORY * kept) / (1 << 20) + 40 * weights / (1 << 20),
        "disk_mib": (COPIES_OF_WEIGHTS * weights * trainings + COPIES_ON_DISK * kept + probes) / (1 << 20),
        "student": student.arch,
        "teacher": teacher.spec.arch,
        "warnings": warnings,
    }


def kept_bytes(config: RunConfig, method: str, images: int) -> int:
    """What a training by ``method`` keeps of so many images, beside the student."""
    kind = method_class(method)
    return kind.kept_bytes(kind.Config.model_validate(config.options(method)), images)


def _minutes(config: RunConfig, method: str, teacher: Model, student: ModelSpec, parts: dict[str, Any]) -> float:
    """Minutes of one training: its steps are timed, its preparation is timed with few steps and scaled."""
    train = config.train.model_copy(update={"epochs": 1, "warmup_epochs": 0})
    options: dict[str, Any] = vetting.trusting(config, method)
    steps_per_epoch = max(len(parts["train"]) // train.batch_size, 1)
    detox_steps = max(options.get("detox_steps", 0), options.get("detox_epochs", 0) * steps_per_epoch)
    if detox_steps and options["lambda_f"] == "auto":
        options["lambda_f"], detox_steps = LAMBDA, detox_steps * LAMBDAS_TRIED
    count = min(len(parts["train"]), PROBE_STEPS * train.batch_size)
    images = parts["train"].subset(np.arange(count))

    def probe(detox: int) -> tuple[float, float]:
        """Seconds of preparation, and of one step."""
        chosen = {**options, "detox_steps": detox, "detox_epochs": 0} if detox_steps else options
        _, log = distill.run(None if method == "scratch" else teacher, student, images, method, chosen, train)
        seconds = dict(log.seconds)
        return seconds.pop("prepare", 0.0), sum(seconds.values()) / max(log.steps, 1)

    prepare, step = probe(PROBE_DETOX_STEPS[0])
    if detox_steps:  # two lengths tell what is done once from what every step costs
        longer, _ = probe(PROBE_DETOX_STEPS[1])
        each = max(longer - prepare, 0.0) / (PROBE_DETOX_STEPS[1] - PROBE_DETOX_STEPS[0])
        prepare += each * (detox_steps - PROBE_DETOX_STEPS[0])
    return (step * steps_per_epoch * config.train.of(len(parts["train"])).epochs + prepare) / 60


def _repair_minutes(config: RunConfig, teacher: Model, parts: dict[str, Any]) -> float:
    """Minutes of repairing the teacher: a few of its steps are timed; the search of a threshold is counted once."""
    name, options = str(config.repair_method), config.repair_options
    images = parts["train"]
    few = images.subset(np.arange(min(len(images), PROBE_STEPS * config.train.batch_size)))
    kind, settings = repair.check(name, teacher, images, options)
    shorter = {"epochs": 1, "tune_epochs": 1, "steps": PROBE_STEPS}
    short = {key: shorter.get(key, value) for key, value in options.items()}
    _, log = repair.run(name, teacher, few, short, config.train, accuracy=lambda predict: 1.0)
    seconds = dict(log.seconds)
    once = seconds.pop("prepare", 0.0) + seconds.pop("finish", 0.0)
    # what is tuned in preparation saw the few images once
    once *= options.get("tune_epochs", 1) * (len(images) / len(few) if "tune_epochs" in options else 1)
    if not kind.trains:
        return float(once) / 60
    train, source = kind(settings, teacher.spec).length(
        config.train.of(len(images)), Batches(images, config.train.batch_size)
    )
    return float(sum(seconds.values()) / log.steps * train.epochs * source.steps + once) / 60
