"""What the trip cost each class: a mean may hide a class that is lost; a record may be anybody's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from edgekd_device.metrics import difference_interval

from ..types import Rate, RunRecord
from . import text
from .cells import Cell, Table, rate_cell

MOST_CLASSES = 12
READING = (
    "ACC by class on the probe images, the class that lost most since the teacher first. Differences are "
    "in points, red where the intervals show a loss."
)


def table(record: RunRecord) -> Table:
    """Classes, ACC of teacher, student and what ships, and the points lost on the way; without rows if nothing was counted."""
    found = _found(record.classes)
    if found is None:
        return Table((), ())
    names, images, stages, right = found
    rows = []
    for label, total in enumerate(images):
        rates = [Rate(hits[label], total) for hits in right]
        if total:
            rows.append((rates[-1].value - rates[0].value, label, rates))
    rows.sort(key=lambda row: row[:2])
    more = len(rows) - MOST_CLASSES
    return Table(
        ("class", *stages, *(f"{stages[-1]} − {stage}" for stage in stages[:-1])),
        tuple(_row(names[label], rates) for _, label, rates in rows[:MOST_CLASSES]),
        READING + (f" {more} more classes are in run.json." if more > 0 else ""),
    )


def _row(name: str, rates: Sequence[Rate]) -> tuple[Cell, ...]:
    return (Cell(text.clean(name)), *map(rate_cell, rates), *(_lost(before, rates[-1]) for before in rates[:-1]))


def _lost(before: Rate, after: Rate) -> Cell:
    surely = difference_interval(before, after)[0] > 0
    return Cell(text.points(after.value - before.value), tone="bad" if surely else "")


def _found(value: Any) -> tuple[list[str], list[int], list[str], list[list[int]]] | None:
    """Names, images, stages and their right answers, if they are that; first comes the teacher, last what ships."""
    if not isinstance(value, Mapping):
        return None
    names, stages, right = (value.get(key) for key in ("names", "stages", "right"))
    images = value.get("images")
    if not isinstance(names, list) or not isinstance(stages, list) or not isinstance(right, list):
        return None
    if not _counts(images) or len(names) < len(images) or len(stages) != len(right) or len(right) < 2:
        return None
    for hits in right:
        if not _counts(hits) or len(hits) != len(images):
            return None
        if not all(0 <= h <= n for h, n in zip(hits, images, strict=True)):
            return None
    return [str(name) for name in names], images, [text.clean(stage) for stage in stages], right


def _counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(count) is int for count in value)
