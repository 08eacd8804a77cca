"""The stage ledger: one row per artefact, from the teacher to what runs on the target, then the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..types import RunRecord, StageRow, TriggerScore
from . import text
from .cells import Cell, excess_cell, latency_cell, quiet, rate_cell

MOST_TRIGGERS = 8

GLOSSARY = (
    ("ACC", "accuracy: the share of clean images that get their own label."),
    (
        "ASR",
        "attack success rate: of the triggered images whose own label is not already the attacker's, the "
        "share that gets the attacker's label.",
    ),
    (
        "floor",
        "the ASR of an unattacked control: a student trained from scratch on the same images with their true "
        "labels, or, in a run without training images, the network of --reference. No defence can be "
        "expected to go below it. If that control obeys the trigger itself (the images may be poisoned), it "
        "is no floor: the verdict says so, and the ASR gate fails.",
    ),
    ("excess", "ASR − floor, in points. Gates and bars use this."),
    ("RA", "robust accuracy: the share of the same triggered images that still get their own label."),
    ("untriggered", "the share of the same images that get the attacker's label even without the trigger."),
    (
        "label flips",
        "clean images that this stage labels differently from the stage before: the student is compared with "
        "the teacher, everything made from the student with the student in FP32.",
    ),
)


@dataclass(frozen=True)
class LedgerRow:
    """One stage: cells before the triggers, one tuple of cells per trigger, cells after them."""

    control: bool
    head: tuple[Cell, ...]
    triggers: tuple[tuple[Cell, ...], ...]
    tail: tuple[Cell, ...]


@dataclass(frozen=True)
class Ledger:
    head: tuple[str, ...]
    triggers: tuple[str, ...]
    tail: tuple[str, ...]
    rows: tuple[LedgerRow, ...]
    reading: str

    @property
    def columns(self) -> tuple[str, ...]:
        return self.head + self.triggers + self.tail


def stages(record: RunRecord) -> tuple[StageRow, ...]:
    return tuple(row for row in record.rows if row.kind != "control")


def controls(record: RunRecord) -> tuple[StageRow, ...]:
    return tuple(row for row in record.rows if row.kind == "control")


def final(record: RunRecord) -> StageRow | None:
    """The stage nearest to what runs on the target: the last INT8 one that a deployment runtime ran, else the last."""
    found = stages(record)
    deployed = [row for row in found if row.precision == "int8" and row.runtime != "torch"]
    return deployed[-1] if deployed else (found[-1] if found else None)


def shown_triggers(record: RunRecord) -> tuple[str, ...]:
    """Names of the triggers that the ledger has room for: known ones first, then the strongest at any stage."""
    strength: dict[str, tuple[int, float]] = {}
    for row in record.rows:
        for score in row.triggers:
            known = int(score.origin == "known")
            strength[score.trigger] = max(strength.get(score.trigger, (known, -1.0)), (known, score.raised))
    ranked = sorted(strength, key=lambda name: strength[name], reverse=True)[:MOST_TRIGGERS]
    return tuple(name for name in strength if name in ranked)


def ledger(record: RunRecord) -> Ledger:
    """The stage ledger, then the controls: one row per artefact, and per trigger within it."""
    names = shown_triggers(record)
    several = len(names) > 1
    columns = ("ASR", "floor", "excess", "RA", "untriggered") if names else ("ASR",)
    rows = [_ledger_row(row, i == 0, names, several) for i, row in enumerate(stages(record) + controls(record))]
    return Ledger(
        ("stage", "ACC"),
        ("trigger",) * several + columns,
        ("label flips", "size", "latency"),
        tuple(rows),
        _ledger_reading(record, names),
    )


def _ledger_reading(record: RunRecord, names: Sequence[str]) -> str:
    reading = (
        "Read it top to bottom: each line is one artefact on the way from the teacher to what ships. Small "
        "print: counts, and Wilson 95 % intervals in %."
    )
    if len(names) == 1:
        origins = {s.origin for row in record.rows for s in row.triggers if s.trigger == names[0]}
        reading += f" Trigger: {text.clean(names[0])} ({', '.join(sorted(origins))})."
    every = {score.trigger for row in record.rows for score in row.triggers}
    if len(every) > len(names):
        reading += f" The {len(names)} strongest of {len(every)} triggers are shown; run.json has them all."
    return reading


def _ledger_row(row: StageRow, first: bool, names: Sequence[str], several: bool) -> LedgerRow:
    head = (
        Cell(text.clean(row.stage), (f"{text.clean(row.runtime)} · {text.clean(row.precision)}",)),
        rate_cell(row.acc),
    )
    scores = {score.trigger: score for score in row.triggers}
    if names:
        triggers = tuple(_trigger_cells(name, scores.get(name), several) for name in names)
    else:
        triggers = ((quiet(text.NOT_MEASURED),),)
    counted = ((row.parameters, "weights"), (row.macs, "MACs"))
    details = tuple(f"{text.many(value)} {unit}" for value, unit in counted if value is not None)
    size = Cell(text.size(row.size_bytes), details, "quiet" if row.size_bytes is None else "")
    tail = (_flips(row, first), size, latency_cell(row.latency))
    return LedgerRow(row.kind == "control", head, triggers, tail)


def _flips(row: StageRow, first: bool) -> Cell:
    """The teacher and the controls come after no stage: a dash there, as nothing is missing."""
    beside = row.flips is None and (first or row.kind == "control")
    return Cell("–", tone="quiet") if beside else rate_cell(row.flips)


def _trigger_cells(name: str, score: TriggerScore | None, several: bool) -> tuple[Cell, ...]:
    if score is None:
        cells = tuple(quiet(text.NOT_MEASURED) for _ in range(5))
        return (Cell(text.clean(name)),) * several + cells
    return (Cell(text.clean(name), (score.origin,)),) * several + (
        rate_cell(score.asr),
        rate_cell(score.floor),
        excess_cell(score),
        rate_cell(score.ra),
        rate_cell(score.untriggered),
    )
