"""How long a run measures: passes of the networks over images, and the bench, from times of a single pass."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd_device import latency, power, session

from .. import targets
from .. import triggers as trigger_box
from ..audit import TIERS
from ..config import RunConfig
from ..export.onnx import FLAVOURS
from ..runners.torch import TorchRunner
from ..types import Target
from .calibration import CANDIDATES
from .vetting import runs_battery, wants_audit

HOST = "onnxruntime"  # what a run benches with
SAMPLE = 500
# A fake-quantised twin rounds every tensor: its pass takes that many times the student's.
TWIN = 2
# Teacher and student are timed in torch at this level, whatever the bench's is.
TORCH_LEVEL = latency.SMOKE


@dataclass(frozen=True)
class Costs:
    """Seconds of one image: in a batch through teacher and student, alone through the student, under a trigger."""

    teacher: float
    student: float
    alone: float
    stamp: float


def measure(teacher: TorchRunner, student: TorchRunner, images: np.ndarray) -> Costs:
    """Times of the real networks on some of ``images`` uint8 [N, C, H, W], after a first pass that warms up."""
    sample, one = images[: min(SAMPLE, teacher.batch_size)], images[:1]
    variants = trigger_box.canaries(images.shape[1:])[::4]
    few = images[:16]
    return Costs(
        _seconds(lambda: teacher(sample)) / len(sample),
        _seconds(lambda: student(sample)) / len(sample),
        statistics.median(_seconds(lambda: student(one)) for _ in range(5)),
        _seconds(lambda: [trigger_box.apply(variant, few) for variant in variants]) / (len(variants) * len(few)),
    )


def _seconds(work: Callable[[], Any]) -> float:
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def minutes(config: RunConfig, parts: Mapping[str, Any], costs: Costs, known: int) -> dict[str, float]:
    """Minutes of everything that is not training, by what it is; ``known``: how many triggers the user gave."""
    target, battery = targets.get(config.target), runs_battery(config)
    found = {
        "canary battery": _battery(config, parts, costs) if battery else 0.0,
        "disagreement": costs.teacher * (len(parts["train"]) + len(parts["validation"])),
        "audits and export": _audits(config, parts, costs, target, probe_triggers(config, known)) + 60,
        "distillation of INT8": _distilled(config, costs, target),
        "attacks": _attacked(config, parts, costs),
        "bench": _judged(config, parts, costs, target, probe_triggers(config, known)) + _timed(config, costs, target),
    }
    return {name: seconds / 60 for name, seconds in found.items() if seconds}


def probe_triggers(config: RunConfig, known: int) -> int:
    """How many triggers every artefact is measured under."""
    return known + (config.audit.bundle_canaries if runs_battery(config) else 0)


def _battery(config: RunConfig, parts: Mapping[str, Any], costs: Costs) -> float:
    """Every variant is stamped on the images, and both teacher and control see them, and the clean ones.

    Once more with the repaired teacher, where the method wants that audited.
    """
    images = min(config.audit.canary_images, len(parts["test"]))
    variants = len(trigger_box.canaries(parts["test"].shape))
    once = images * (variants * (costs.stamp + costs.teacher + costs.student) + costs.teacher + costs.student)
    return once * (2 if config.repair_method and wants_audit(config) else 1)


def _audits(config: RunConfig, parts: Mapping[str, Any], costs: Costs, target: Target, triggers: int) -> float:
    """Each network on the probes: the teacher, the control that gives the floor (twice), the controls, student, twin, files."""
    finetuned = config.controls.count("finetune")  # a control of the teacher's own size
    students = 1 + len(config.controls) - finetuned + 1 + TWIN + len(target.files)
    probes = len(parts["test"]) * (1 + triggers)
    calibration = min(CANDIDATES * config.quantize.images, len(parts["train"])) * costs.teacher
    guard = 2 * TWIN * len(parts["validation"]) * costs.student
    torch = 2 * (TORCH_LEVEL.seconds + TORCH_LEVEL.warm_seconds) if config.bench.level != "none" else 0.0
    return probes * (students * costs.student + (1 + finetuned) * costs.teacher) + calibration + guard + torch


def _distilled(config: RunConfig, costs: Costs, target: Target) -> float:
    """A step: the student's pass, the twin's and its way back, two passes long; only where it is sure to come."""
    qad = config.quantize.qad
    if qad.when != "always":
        return 0.0
    twins = {row.quantizer for row in FLAVOURS.values() if row.quantizer and row.file in target.files}
    return len(twins) * qad.steps * qad.batch_size * (1 + 3 * TWIN) * costs.student


def _attacked(config: RunConfig, parts: Mapping[str, Any], costs: Costs) -> float:
    """Teacher, student and the file's copy by gradients, the file by queries."""
    if config.audit.adversarial is None:
        return 0.0
    tier = TIERS[config.audit.adversarial]
    images = min(config.audit.adversarial_images or tier.images, len(parts["test"]))
    return images * (tier.forwards * (costs.teacher + (1 + TWIN) * costs.student) + tier.queries * costs.student)


def _benched(config: RunConfig, target: Target) -> list[str]:
    """The files that are timed: those made for this machine's runtime."""
    made = [name for name in target.files if session.made_for(name) in (None, HOST)]
    return made if config.bench.level != "none" else []


def _judged(config: RunConfig, parts: Mapping[str, Any], costs: Costs, target: Target, triggers: int) -> float:
    """The bench measures ACC and ASR again, of every file it times and of the one that ships."""
    files = set(_benched(config, target))
    files |= {target.ships} if config.bench.level != "none" else set()
    return len(files) * len(parts["test"]) * (1 + triggers) * costs.student


def _timed(config: RunConfig, costs: Costs, target: Target) -> float:
    """What the level asks for; the soak at its cap."""
    files = _benched(config, target)
    if not files:
        return 0.0
    level = latency.level_named(config.bench.level)
    block = max(level.seconds, level.samples / level.blocks * costs.alone)
    total = len(files) * level.blocks * (block + _warm(level, costs.alone))
    total += level.soak
    if target.ships not in files:
        return total
    if level.multistream:
        query = latency.MULTISTREAM * costs.alone
        total += max(level.multistream, latency.min_queries(1, 0.99) * query) + _warm(level, query)
    if level.power and power.find() is not None:
        total += 2 * level.power
    return total + level.sweep * len(level.batches)


def _warm(level: latency.Level, each: float) -> float:
    return max(level.warm_seconds, level.warm_iterations * each)
