"""report.md: the report's tables for a terminal, a pull request or a model card; every value is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..types import RunRecord
from . import adversarial, canaries, classes, detox, pictures, qad, stages, tables, teaching, text, transferability
from .cells import Cell, Table

escape = text.markdown


def markdown(record: RunRecord) -> str:
    """The report without its pictures."""
    lines = [f"# {escape(record.verdict)}", "", f"**Not tested:** {escape(tables.untested(record))}", ""]
    lines += [escape(tables.gates_summary(record)), ""]
    lines += [" · ".join(f"{name}: {escape(value)}" for name, value in tables.about(record)), ""]
    if record.warnings:
        lines += ["## Warnings", "", *_list(record.warnings)]
    lines += ["## Gates", ""]
    gates = tables.gates(record)
    lines += _table(gates) if gates.rows else ["No gate was set, so nothing here was checked against a limit.", ""]
    lines += ["## Stage ledger", "", *_ledger(record)]
    notes = tables.notes(record)
    if notes:
        lines += ["Notes on single rows:", "", *_list(f"{stage}: {note}" for stage, note in notes)]
    by_class = classes.table(record)
    lines += ["### By class", "", *_table(by_class)] if by_class.rows else []
    plain, meaning = transferability.table(record), transferability.sentence(record)
    lines += ["## Does plain distillation carry the backdoor over?", ""]
    lines += [*(_table(plain) if plain.rows else []), *([escape(meaning), ""] if meaning else [])]
    lines += ["## Canary triggers", "", *_canaries(record)]
    lines += ["## What a student can learn from its outputs", "", escape(teaching.sentence(record.teaching)), ""]
    harm = teaching.harm(record)
    lines += [escape(harm), ""] if harm else []
    attacked = adversarial.of(record)
    lines += ["## Accuracy under attack", ""] if attacked else []
    for one in attacked:
        lines += [f"### {escape(one.name)}", "", escape(one.sentence), "", *_table(one.attacks), *_table(one.checks)]
    lines += ["## Transfer data", "", escape(pictures.doubts_summary(record)), ""]
    for title, table in (
        ("Training", tables.training(record)),
        ("Detoxification", detox.table(record)),
        ("Quantisation-aware distillation", qad.table(record)),
        ("Exported files", tables.onnx_files(record)),
    ):
        if table.rows:
            lines += [f"## {title}", "", *_table(table)]
    lines += ["## What this was made from", ""]
    for title, pairs in tables.origins(record):
        lines += [f"### {title}", "", *_list(f"{name}: {value}" for name, value in pairs)]
    lines += ["### SHA-256", "", *_list(f"{what}: {value}" for what, value in tables.hashes(record))]
    return "\n".join(lines)


def _list(items: Iterable[str]) -> list[str]:
    return [f"- {escape(item)}" for item in items] + [""]


def _cell(cell: Cell) -> str:
    small = f" ({'; '.join(cell.detail)})" if cell.detail else ""
    return escape(cell.text + small)


def _table(table: Table) -> list[str]:
    return [*_grid(table.columns, table.rows), escape(table.reading), ""]


def _grid(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> list[str]:
    lines = ["| " + " | ".join(escape(column) for column in columns) + " |", "|" + " --- |" * len(columns)]
    return lines + ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows] + [""]


def _ledger(record: RunRecord) -> list[str]:
    ledger = stages.ledger(record)
    if not ledger.rows:
        return ["No stage was measured.", ""]
    lines: list[str] = []
    for title, wanted in (
        ("", False),
        ("Controls: what training, distilling and fine-tuning give without the defence.", True),
    ):
        rows = [row for row in ledger.rows if row.control == wanted]
        if rows:
            flat = [row.head + trigger + row.tail for row in rows for trigger in row.triggers]
            lines += ([title, ""] if title else []) + _grid(ledger.columns, flat)
    lines += [escape(ledger.reading), ""]
    return lines + [f"- **{word}**: {escape(meaning)}" for word, meaning in stages.GLOSSARY] + [""]


def _canaries(record: RunRecord) -> list[str]:
    batteries = canaries.batteries(record)
    if not batteries:
        return ["The canary battery did not run.", ""]
    lines = []
    for battery in batteries:
        lines += [f"{escape(battery.stage)}: {escape(battery.summary)}.", ""]
        worst = []
        for family, row in zip(battery.families, battery.excess, strict=True):
            known = [(value, target) for value, target in zip(row, battery.targets, strict=True) if value is not None]
            value, target = max(known, default=(None, ""))
            worst.append((Cell(family), Cell(text.points(value)), Cell(target)))
        lines += _grid(("family", "largest excess ASR, points", "class"), worst)
        lines += _table(battery.flagged) if battery.flagged.rows else ["No public trigger was flagged.", ""]
        lines += [escape(battery.reading), "", *_list(f"Warning: {warning}" for warning in battery.warnings)]
    return lines
