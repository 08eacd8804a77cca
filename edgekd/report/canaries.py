"""The canary battery's table, read with care: public trigger families x every class as the attacker's target.

``RunRecord.canaries`` is one battery, or one per stage by name. A battery:
``families`` names; ``targets`` class indices, optionally ``class_names`` of all classes;
``excess`` one list per family of fractions (the family's worst variant, ASR − floor) or None;
``flagged`` rows {family, variant, target, asr, floor, untriggered} with rates as {hits, total};
``reference`` "floor", or "untriggered" where there was no control; ``variants``, ``images``, ``seconds`` numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..types import Rate, RunRecord
from . import text
from .cells import Cell, Table, quiet, rate_cell

CONTROLLED = (
    "Each cell: the worst variant of a public trigger family, as ASR towards one class above the "
    "unattacked control, in points. A strong colour means that the trigger works here and not on the "
    "control. A dash means not measured."
)
UNCONTROLLED = (
    "Each cell: the worst variant of a public trigger family, as ASR towards one class above the same images without the "
    "trigger, in points. There was no unattacked control: a trigger that breaks any network would show here too."
)
FLAGGED = "Public triggers that move this model to one class far more often than they move the unattacked control."
FLAGGED_ALONE = "Public triggers that move this model to one class far more often than it goes there by itself."


@dataclass(frozen=True)
class Battery:
    """One model under the canary triggers; ``excess[family][target]`` is a fraction, or None where not measured."""

    stage: str
    families: tuple[str, ...]
    targets: tuple[str, ...]
    excess: tuple[tuple[float | None, ...], ...]
    flagged: Table
    summary: str
    reading: str
    warnings: tuple[str, ...]


def batteries(record: RunRecord) -> tuple[Battery, ...]:
    """Every battery of the record that can be read; stages in the order given."""
    value = record.canaries
    if not isinstance(value, Mapping):
        return ()
    named = {"teacher": value} if "families" in value else value
    return tuple(
        _battery(text.clean(stage), battery)
        for stage, battery in named.items()
        if isinstance(battery, Mapping) and isinstance(battery.get("families"), list | tuple)
    )


def _battery(stage: str, value: Mapping[str, Any]) -> Battery:
    families = tuple(text.clean(name) for name in value["families"])
    targets = tuple(_class(value, target) for target in value.get("targets") or ())
    given = value.get("excess") or ()
    rows = [given[i] if i < len(given) and isinstance(given[i], list | tuple) else () for i in range(len(families))]
    excess = tuple(tuple(_number(row[j]) if j < len(row) else None for j in range(len(targets))) for row in rows)
    controlled = value.get("reference", "floor") == "floor"
    warnings = value.get("warnings")
    return Battery(
        stage,
        families,
        targets,
        excess,
        _flagged(value, controlled),
        _summary(value, len(families), len(targets)),
        CONTROLLED if controlled else UNCONTROLLED,
        tuple(text.clean(warning) for warning in warnings) if isinstance(warnings, list | tuple) else (),
    )


def _class(value: Mapping[str, Any], target: Any) -> str:
    names = value.get("class_names")
    if isinstance(names, list | tuple) and isinstance(target, int) and 0 <= target < len(names):
        return text.clean(names[target])
    return text.clean(target)


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return max(-1.0, min(1.0, float(value))) if usable else None


def _rate(value: Any) -> Cell:
    try:
        return rate_cell(Rate(int(value["hits"]), int(value["total"])))
    except (KeyError, TypeError, ValueError):
        return quiet(text.NOT_MEASURED)


def _flagged(value: Mapping[str, Any], controlled: bool) -> Table:
    reference = "floor" if controlled else "untriggered"
    rows = tuple(
        (
            Cell(text.clean(row.get("family", ""))),
            Cell(text.clean(row.get("variant", ""))),
            Cell(_class(value, row.get("target", ""))),
            _rate(row.get("asr")),
            _rate(row.get(reference)),
        )
        for row in value.get("flagged") or ()
        if isinstance(row, Mapping)
    )
    return Table(("family", "variant", "class", "ASR", reference), rows, FLAGGED if controlled else FLAGGED_ALONE)


def _summary(value: Mapping[str, Any], families: int, targets: int) -> str:
    parts = [f"{families} families", f"{targets} classes"]
    for name, words in (("variants", "variants"), ("images", "images each")):
        if isinstance(value.get(name), int):
            parts.append(f"{value[name]:,} {words}")
    if isinstance(value.get("seconds"), int | float):
        parts.append(text.seconds(float(value["seconds"])))
    return ", ".join(parts)
