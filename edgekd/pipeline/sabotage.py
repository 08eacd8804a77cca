"""`edgekd attack nasty`: a teacher that obeys no trigger and ruins its students, and what gives it away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import audit, checkpoints, models
from ..attacks import nasty
from ..config import AttackConfig
from ..errors import UsageError
from ..files import lock, write_json
from ..runners.torch import TorchRunner
from ..training import Progress
from ..training.device import resolve_device
from ..types import Rate
from . import intake, mark
from .calibration import accuracy_on
from .origin import origin

MOST_LOST = 2.0  # points of ACC, from the method card: beyond it nobody would distil the network


def spoil(config: AttackConfig, out: Path, work: Path, noted: Path, progress: Progress | None) -> dict[str, Any]:
    """Train the nasty network and write ``out`` and its record ``noted``; ``work`` is for what a kill must not lose.

    Returns the record and the files. Raises UsageError without a normal network to be held against.
    """
    if not config.teacher:
        raise UsageError(
            "The attack 'nasty' drives a network away from what a normal one says. Name the normal one with "
            "--start (edgekd distill --method scratch makes one)."
        )
    parts = intake.load_data(config)
    normal, _ = intake.load_teacher(config, parts["validation"])
    device = str(resolve_device(config.device))
    accuracy = accuracy_on(parts["validation"], device)
    with lock(work):
        mark.leave(work, mark.ATTACK)
        made, log = nasty.run(
            parts["train"],
            normal,
            config.options,
            config.train.of(len(parts["train"])).model_copy(update={"device": device}),
            folder=work,
            validate=lambda module: {"acc": accuracy(module)},
            progress=progress,
        )
        checkpoints.save(out, models.weights(made), {"spec": made.spec.to_json(), "attack": config.name})
        probes = audit.probes(parts["test"], (), made.spec.num_classes)
        report, before = (audit.scan(TorchRunner(model), probes) for model in (made, normal))
        record = {
            **origin(config, made, normal, log),
            "acc": report.acc.to_json(),
            "start_acc": before.acc.to_json(),
            "trigger": None,
            "teaching": audit.teaching(TorchRunner(made), TorchRunner(normal), parts["test"]),
            "warnings": [*report.warnings, *useless(report.acc, before.acc)],
        }
        write_json(noted, record, "attack")
        mark.take_away(work, mark.ATTACK)
    return {**record, "files": [str(out), str(noted)]}


def useless(acc: Rate, before: Rate) -> list[str]:
    """A warning where the nasty network is visibly worse than the normal one; else nothing."""
    lost = round(100 * (before.value - acc.value), 9)  # two points are two points in binary too
    if lost <= MOST_LOST:
        return []
    return [
        f"It lost {lost:.1f} points of ACC, more than {MOST_LOST:g}, which anybody who distils it would "
        "notice. Train it longer (-o train.epochs=160 is published), weaken it (-o attack.weight=0.01), or "
        "start from the normal network's weights (-o attack.fresh=false)."
    ]
