"""`edgekd attack`: a backdoored teacher, its trigger as a file that --trigger reads, and what was measured of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from .. import attacks, audit, checkpoints, models, triggers
from ..attacks import Attacked, Goal
from ..attacks.base import BatchAttack
from ..config import AttackConfig
from ..data import ImageSet
from ..errors import UsageError
from ..files import lock, write_json, write_npz, write_text, write_with
from ..runners.torch import TorchRunner
from ..training import Progress
from ..training.device import resolve_device
from ..triggers import FROM_FILES
from ..types import AuditReport, InputSpec, ModelSpec, Rate, Trigger
from . import intake, mark, sabotage
from .calibration import accuracy_on
from .origin import origin

ARCH = "wrn-16-1"
SHOWN = 4  # images of the gallery
SHIPPED = 0.02  # of ACC: a loss that an attacker's customer would notice
OBEYED = 0.1  # of ASR above the rate without the trigger: less is no attack


def attack(config: AttackConfig, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Train the backdoored network and write ``out`` (.safetensors); trigger, record and picture go beside it.

    Returns the record and the files. A run that was killed goes on with the same command. Raises UsageError for
    settings, images or a goal that do not fit each other, and where ``out`` is there already.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out} must end in .safetensors; the trigger and the record are written beside it.")
    work, picture, noted = (out.with_name(out.stem + end) for end in (".work", ".gallery.png", ".attack.json"))
    mark.refuse_foreign(work, mark.ATTACK, "an attack's folder", "Move it away, or choose another file with --out.")
    if not work.exists():  # with it they are what a killed run had written
        for written in (out, noted, picture, *(out.with_name(f"{out.stem}.trigger.{end}") for end in ("yaml", "npz"))):
            if written.exists():
                raise UsageError(f"{written} already exists. Choose another file with --out, or move it away.")
    if config.name in attacks.SABOTAGE:
        return sabotage.spoil(config, out, work, noted, progress)
    parts = intake.load_data(config)
    start = intake.load_teacher(config, parts["validation"])[0] if config.teacher else None
    spec = start.spec if start is not None else _fresh(config, parts["train"])
    goal = Goal(**config.goal.model_dump())
    kind = attacks.check(config.name, parts["train"], spec, config.options, goal, start)
    if not kind.learned:  # what cannot be made or measured is refused before anything is trained
        audit.probes(parts["test"], (kind.trigger(config.name, parts["test"], None, config.seed),), spec.num_classes)
    device = str(resolve_device(config.device))
    accuracy = accuracy_on(parts["validation"], device)
    with lock(work):
        mark.leave(work, mark.ATTACK)
        made = attacks.run(
            config.name,
            parts["train"],
            spec,
            config.options,
            config.train.of(len(parts["train"])).model_copy(update={"device": device}),
            goal,
            start=start,
            folder=work,
            validate=lambda module: {"acc": accuracy(module)},
            progress=progress,
        )
        probes = audit.probes(parts["test"], (made.trigger,), spec.num_classes)
        twin = None if start is None else audit.scan(TorchRunner(start), probes)
        report = audit.scan(TorchRunner(made.model), probes, floors=None if twin is None else audit.floors(twin))
        checkpoints.save(out, models.weights(made.model), {"spec": spec.to_json(), "attack": config.name})
        trigger = write_trigger(made, out.with_name(out.stem + ".trigger"))
        write_with(picture, lambda file: _gallery(made.trigger, parts["test"].images[:SHOWN], file), "picture")
        record = {
            **origin(config, made.model, start, made.log),
            "acc": report.acc.to_json(),
            "start_acc": None if twin is None else twin.acc.to_json(),
            "trigger": report.triggers[0].to_json(),
            # by their hashes, never by their places; None: images are drawn anew in every batch
            "poisoned": None if isinstance(made.kind, BatchAttack) else list(made.poisoned.poisoned),
            "covers": None if isinstance(made.kind, BatchAttack) else list(made.poisoned.covers),
            "warnings": [
                *report.warnings,
                *_fewer(made, len(parts["train"])),
                *_worse(report.acc, None if twin is None else twin.acc),
                *_no_attack(report, parts["test"], spec.num_classes, kind.obeys),
            ],
        }
        write_json(noted, record, "attack")
        mark.take_away(work, mark.ATTACK)
    return {**record, "files": [str(path) for path in (out, trigger, noted, picture)]}


def _fewer(made: Attacked, images: int) -> list[str]:
    """That fewer images than the rate asks for could be poisoned, where that is so."""
    count, wanted = len(made.poisoned.poisoned), round(made.kind.config.rate * images)
    if not 0 < count < wanted:  # those that poison inside the batch name no images
        return []
    return [
        f"{count:,} of {images:,} images were poisoned, {count / images:.1%}: the attack cannot use more of "
        f"them, though attack.rate={made.kind.config.rate:g} asks for {wanted:,}."
    ]


def _worse(acc: Rate, start: Rate | None) -> list[str]:
    """That the teacher gives itself away by its ACC, where it does."""
    lost = 0.0 if start is None else start.value - acc.value
    if lost < SHIPPED:
        return []
    return [
        f"ACC is {100 * lost:.1f} points below the clean network's, so nobody would ship this teacher. Lower "
        "attack.rate, or set more train.epochs."
    ]


def _no_attack(report: AuditReport, images: ImageSet, num_classes: int, obeys: bool) -> list[str]:
    """That the network answers alike with the trigger and without, or knows nothing, where it is so."""
    if intake.about_chance(report.acc, images.labels, num_classes):
        return [
            "ACC may be chance: nothing shows that this network has learnt anything. Set more train.epochs, or "
            "give more images."
        ]
    (score,) = report.triggers
    without = score.untriggered.value if score.untriggered is not None and score.untriggered.total else 0.0
    if not (obeys and score.asr.total) or score.asr.value - without >= OBEYED:
        return []
    return [
        f"The trigger does little: {score.asr.value:.1%} of the triggered images get the attacker's label, "
        f"and {without:.1%} of the same images without the trigger. Set a higher attack.rate, or more "
        "train.epochs."
    ]


def write_trigger(made: Attacked, stem: Path) -> Path:
    """The trigger at test time and what it is to do, as the YAML list that triggers.load reads; arrays beside it as .npz."""
    trigger = made.trigger
    entry: dict[str, Any] = {"name": trigger.name}
    if trigger.family in FROM_FILES:
        affine = trigger.family == "affine"
        arrays = {key: np.moveaxis(value, 0, -1) if affine else value for key, value in trigger.params.items()}
        entry["file"] = write_npz(Path(f"{stem}.npz"), "trigger", **arrays).name
    else:
        entry |= {"family": trigger.family, **made.kind.options()}
    entry["rule"] = trigger.rule
    if trigger.target_label is not None:
        entry["target_label"] = trigger.target_label
    if trigger.source_labels:
        entry["source_labels"] = list(trigger.source_labels)
    return write_text(Path(f"{stem}.yaml"), yaml.safe_dump([entry], sort_keys=False), "trigger")


def _fresh(config: AttackConfig, images: ImageSet) -> ModelSpec:
    arch = config.arch or ARCH
    statistics = models.normalization("half", images.shape[0])
    return ModelSpec(arch, config.num_classes or images.num_classes, InputSpec(*images.shape, *statistics))


def _gallery(trigger: Trigger, images: np.ndarray, file: Path) -> None:
    """A line per image: clean, with the trigger, ten times the difference."""
    lines = [np.concatenate([image, *triggers.picture(trigger, image)], axis=2) for image in images]
    whole = np.moveaxis(np.concatenate(lines, axis=1), 0, -1)
    picture = Image.fromarray(whole[..., 0] if whole.shape[-1] == 1 else whole)
    factor = max(1, 96 // images.shape[2])
    picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST).save(file, format="PNG")
