"""One attack: the trigger, the poisoned images, the training; ends with a teacher and what it obeys."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import triggers
from ..data import Batches
from ..errors import UsageError
from ..files import sha256_bytes
from ..models import build, weights_sha256
from ..training import Progress, Settings, TrainConfig, checked, chosen, fit
from ..training.clock import Stopwatch
from ..training.device import resolve_device
from ..training.fit import Validate
from ..types import Model, ModelSpec, TrainLog, Trigger
from .base import Attack, Goal, Poisoned
from .table import ATTACKS, SABOTAGE
from .work import Work

if TYPE_CHECKING:
    import torch

    from ..data import ImageSet


@dataclass(frozen=True)
class Attacked:
    """What an attack leaves: the teacher, its trigger, how it was trained, and the images that were touched."""

    model: Model
    trigger: Trigger
    log: TrainLog
    poisoned: Poisoned
    kind: Attack


def run(
    name: str,
    images: ImageSet,
    spec: ModelSpec,
    options: Mapping[str, Any],
    train: TrainConfig,
    goal: Goal,
    *,
    start: Model | None = None,
    folder: Path | None = None,
    validate: Validate | None = None,
    progress: Progress | None = None,
) -> Attacked:
    """Train a backdoored network of ``spec``, or train ``start`` on; a run that was killed in ``folder`` continues.

    validate: figures of a module of pixels -> logits on validation images. Raises UsageError for settings, images or a
    goal that do not fit each other.
    """
    attack = check(name, images, spec, options, goal, start)
    device, watch = resolve_device(train.device), Stopwatch()
    about = {
        "attack": name,
        "options": attack.config.model_dump(mode="json"),
        "goal": [goal.target_label, goal.rule, list(goal.source_labels)],
        "spec": spec.to_json(),
        "images": images.sha256,
        "start": "" if start is None else start.sha256 or weights_sha256(start.module.state_dict()),
    }
    work, found_on = Work(device, folder, {**about, "seed": train.seed}, progress), _copied(start, device)
    trigger = attack.trigger(name, images, found_on, train.seed, work)
    watch.lap("trigger")
    poisoned = attack.poison(trigger, images, found_on, train.seed, work)
    watch.lap("poisoning")
    module: Any = build(spec, seed=train.seed).module if start is None else copy.deepcopy(start.module)
    module.requires_grad_(True)
    identity = {
        **about,
        "poisoned": poisoned.images.sha256,
        "trigger": sha256_bytes(triggers.apply(trigger, images.images[:8]).tobytes()),
    }
    method = attack.method(trigger, spec)
    log = fit(
        module,
        method,
        Batches(poisoned.images, train.batch_size, seed=train.seed, augment=train.augment, device=device),
        train,
        folder=folder,
        validate=validate,
        progress=progress,
        identity=identity,
        what=name,
    )
    log = dataclasses.replace(log, seconds={**{part: round(s, 4) for part, s in watch.seconds.items()}, **log.seconds})
    module.to("cpu").eval()
    model = Model(spec, module, weights_sha256(module.net.state_dict()))
    return Attacked(model, method.made(), log, poisoned, attack)


def _copied(start: Model | None, device: torch.device) -> Model | None:
    """The clean network where searches compute; the caller's own stays where it is."""
    if start is None or device.type == "cpu":
        return start
    return dataclasses.replace(start, module=copy.deepcopy(start.module).to(device))


def check(
    name: str, images: ImageSet, spec: ModelSpec, options: Mapping[str, Any], goal: Goal, start: Model | None = None
) -> Attack:
    """The attack, ready; raises the UsageErrors of ``run`` without training."""
    kind = attack_class(name)
    if goal.rule not in kind.rules:
        how = " and --source-label" if kind.rules == ("source",) else ""
        raise UsageError(
            f"The attack {name!r} cannot be {goal.rule}: give --trigger-rule {' or '.join(kind.rules)}{how}."
        )
    triggers.rules.check(goal.rule, goal.target_label, goal.source_labels, images.num_classes)
    if start is not None and not any(True for _ in start.module.parameters()):
        raise UsageError(f"{start.spec.arch} has no weights to train. Give --start weights, not an ONNX graph.")
    if kind.learned and (start is None or not hasattr(start.module, "sites")):
        raise UsageError(f"The attack {name!r} starts from a clean network of the zoo. Name one with --start.")
    if images.shape != spec.input.shape or images.num_classes > spec.num_classes:
        raise UsageError(
            f"The images are {images.shape} of {images.num_classes} classes, but the network {spec.arch} takes "
            f"{spec.input.shape} of {spec.num_classes}."
        )
    attack = kind(checked(kind.Config, f"attack {name!r}", options), goal)
    attack.fits(spec, start)
    return attack


def settings_of(name: str) -> type[Settings]:
    """The settings of an attack or a sabotage; raises UsageError with the nearest name for one that is not there."""
    kind: type[Settings] = chosen({**ATTACKS, **SABOTAGE}, name, "attack").Config
    return kind


def attack_class(name: str) -> type[Attack]:
    """The class of a row of the table; raises UsageError with the nearest name for one that is not there."""
    kind: type[Attack] = chosen(ATTACKS, name, "attack")
    return kind
