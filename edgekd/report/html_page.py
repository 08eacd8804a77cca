"""report.html: one file that needs no network and runs no script; every value of the record is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..types import RunRecord
from . import (
    adversarial,
    canaries,
    classes,
    detox,
    figures,
    pictures,
    qad,
    stages,
    tables,
    teaching,
    text,
    transferability,
)

HERE = Path(__file__).parent


def html(record: RunRecord) -> str:
    """The whole page; the same record gives the same bytes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    box = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return box.get_template("page.html.j2").render(_view(record)).lstrip() + "\n"


def _view(record: RunRecord) -> dict[str, Any]:
    from markupsafe import Markup  # only for what we drew or wrote ourselves

    last = stages.final(record)
    found = canaries.batteries(record)
    return {
        "style": Markup((HERE / "style.css").read_text("utf-8")),
        "name": text.clean(record.name),
        "version": text.clean(record.edgekd_version),
        "verdict": text.clean(record.verdict),
        "tone": tables.tone(record),
        "gates_summary": tables.gates_summary(record),
        "not_tested": tables.untested(record),
        "about": tables.about(record),
        "cards": tables.key_figures(record),
        "final": "" if last is None else f"{text.clean(last.stage)}, {text.clean(last.runtime)}",
        "warnings": [text.clean(warning) for warning in record.warnings],
        "gates": tables.gates(record),
        "ledger": stages.ledger(record),
        "glossary": stages.GLOSSARY,
        "notes": tables.notes(record),
        "plain": transferability.table(record),
        "plain_sentence": transferability.sentence(record),
        "rates": Markup(figures.rates(record)),
        "costs": Markup(figures.costs(record)),
        "batteries": [(b, Markup(figures.heat_map(b, f"canaries-{i}"))) for i, b in enumerate(found)],
        "triggers": pictures.trigger_pictures(record),
        "examples": pictures.examples(record),
        "attacked": adversarial.of(record),
        "teaching": teaching.sentence(record.teaching),
        "harm": teaching.harm(record),
        "suspicious": teaching.warning(record.teaching) is not None,
        "doubts": pictures.doubts(record),
        "doubts_summary": pictures.doubts_summary(record),
        "curves": Markup(figures.training_curves(record)),
        "training": tables.training(record),
        "classes": classes.table(record),
        "detox": detox.table(record),
        "qad": qad.table(record),
        "onnx": tables.onnx_files(record),
        "facts_tables": tables.origins(record),
        "hashes": tables.hashes(record),
    }
