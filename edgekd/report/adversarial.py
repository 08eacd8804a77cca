"""Accuracy under attack: a table per artefact, the tests for masked gradients, and how far the figure can be trusted.

A table of ``RunRecord.adversarial``: ``name``, ``tier``, ``bound`` in [0, 1], ``images``, ``seed``; ``clean`` and ``robust``
as {hits, total}; ``attacks`` rows {attack, settings, broken, left}; ``curve`` rows {bound, left}; ``radius`` or None;
``checks`` rows {check, passed or None, found}; ``disagreement`` by source, for a file. A record may be anybody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..types import Rate, RunRecord
from . import text
from .cells import Cell, Table, rate_cell

if TYPE_CHECKING:
    from rich.console import RenderableType

READING = (
    "Accuracy left after each attack in turn; errors on clean images count as lost. An image counts as "
    "robust only if every attack failed on it."
)
TRIED = "Each is a test for masked gradients, under which a failed attack says nothing about the network."
UNTRUSTED = "Not to be relied on: "
MARKS = {True: Cell("passed", tone="good"), False: Cell("FAILED", tone="bad"), None: Cell("told alone")}


@dataclass(frozen=True)
class Attacked:
    """One artefact; ``sentence``: the result in words."""

    name: str
    sentence: str
    trusted: bool
    attacks: Table
    checks: Table


def sections(tables: Iterable[Any]) -> tuple[Attacked, ...]:
    """Every table of a record that can be read."""
    return tuple(_section(table) for table in tables if isinstance(table, Mapping))


def of(record: RunRecord) -> tuple[Attacked, ...]:
    return sections(record.adversarial)


def terminal(tables: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """What `edgekd audit` prints of them, top to bottom; tests are shown where one failed."""
    from rich.text import Text

    parts: list[RenderableType] = []
    for section in sections(tables):
        parts += [Text(f"\nUnder attack: {section.name}", "bold"), _rich(section.attacks)]
        if not section.trusted:
            parts.append(_rich(section.checks))
        parts.append(Text(section.sentence, "" if section.trusted else "red"))
    return parts


def _rich(table: Table) -> RenderableType:
    from rich.table import Table as Rich
    from rich.text import Text

    made = Rich(box=None, header_style="bold", pad_edge=False)
    for column in table.columns:
        made.add_column(column)
    for row in table.rows:
        words = (f"{cell.text} ({', '.join(cell.detail)})" if cell.detail else cell.text for cell in row)
        made.add_row(*(Text(word) for word in words))
    return made


def _section(table: Mapping[str, Any]) -> Attacked:
    checks = [row for row in _rows(table.get("checks"))]
    failed = [row for row in checks if row.get("passed") is False]
    rows = [(Cell("none"), Cell(""), rate_cell(_rate(table.get("clean"))))]
    rows += [
        (Cell(text.clean(row.get("attack", ""))), Cell(_how(row)), _left(row)) for row in _rows(table.get("attacks"))
    ]
    rows.append((Cell("worst of all"), Cell(""), rate_cell(_rate(table.get("robust")))))
    return Attacked(
        text.clean(table.get("name", "")),
        _sentence(table, failed),
        not failed,
        Table(("attack", "settings", "accuracy left"), tuple(rows), READING),
        Table(("test", "outcome", "found"), tuple(map(_check, checks)), TRIED),
    )


def _sentence(table: Mapping[str, Any], failed: Sequence[Mapping[str, Any]]) -> str:
    robust = _rate(table.get("robust"))
    said = [
        f"l_inf ≤ {levels(table.get('bound'))}, tier {text.clean(table.get('tier', ''))}, "
        f"{text.figure(table.get('images'))} images, seed {text.clean(table.get('seed', ''))}: "
        f"{text.percent(robust)} left ({text.interval(robust) or 'nothing counted'})."
    ]
    curve = [f"{levels(row.get('bound'))}: {text.percent(_rate(row.get('left')))}" for row in _rows(table.get("curve"))]
    said += [f"PGD-20 at smaller bounds{_of(table)} leaves {', '.join(curve)}."] if curve else []
    radius = table.get("radius")
    said += [f"Half of the images have given way at {levels(radius)}."] if _number(radius) is not None else []
    apart = table.get("disagreement")
    for name, rate in apart.items() if isinstance(apart, Mapping) else ():
        said.append(
            f"On the adversarial images of {text.clean(name)} it gives another label to {text.percent(_rate(rate))}."
        )
    if failed:
        said.append(
            UNTRUSTED + "; ".join(f"{text.clean(r.get('check'))}: {text.clean(r.get('found'))}" for r in failed) + "."
        )
    return " ".join(said)


def _of(table: Mapping[str, Any]) -> str:
    """How many images the curve is of."""
    totals = {rate.total for row in _rows(table.get("curve")) if (rate := _rate(row.get("left"))) is not None}
    return f" (on {text.figure(min(totals))} of the images)" if totals and totals != {table.get("images")} else ""


def levels(bound: Any) -> str:
    """A size of change in levels of 8 bits: ``8/255``."""
    value = _number(bound)
    return text.NOT_MEASURED if value is None else f"{255 * value:.3g}/255"


def _how(row: Mapping[str, Any]) -> str:
    """Settings in words: ``50 steps of a length of their own, 3 targets, targeted DLR``."""
    settings = row.get("settings")
    settings = settings if isinstance(settings, Mapping) else {}
    said = []
    step = settings.get("step")
    if "steps" in settings:
        steps = text.figure(settings["steps"])
        length = "" if step is None else " of automatic length" if step == "auto" else f" of {text.short(step)} eps"
        said.append(f"{steps} step{'s' * (settings['steps'] != 1)}{length}")
    for key, word in (("queries", "queries"), ("targets", "targets")):
        said += [f"{text.figure(settings[key])} {word}"] if key in settings else []
    said += [text.clean(settings["objective"])] if "objective" in settings else []
    said += (
        ["found on another network" if settings.get("bits") == 32 else "the same rounded"] if "bits" in settings else []
    )
    return ", ".join(said)


def _left(row: Mapping[str, Any]) -> Cell:
    return rate_cell(_rate(row.get("left")))


def _check(row: Mapping[str, Any]) -> tuple[Cell, Cell, Cell]:
    passed = row.get("passed")
    mark = MARKS.get(passed if isinstance(passed, bool) else None, MARKS[None])
    return Cell(text.clean(row.get("check", ""))), mark, Cell(text.clean(row.get("found", "")))


def _rows(value: Any) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []


def _rate(value: Any) -> Rate | None:
    try:
        return Rate(int(value["hits"]), int(value["total"]))
    except (KeyError, TypeError, ValueError):
        return None


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return float(value) if usable else None
