"""What quantisation-aware distillation did, in words and as a table; a record may be anybody's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..types import RunRecord
from . import text
from .cells import Cell, Table, quiet

COLUMNS = ("INT8 flavour", "what learned", "images", "steps", "FP32", "calibrated", "distilled", "ships")
READING = (
    "Quantisation-aware distillation: if INT8 costs more than quantize.guard allows, even with some "
    "layers in float, the FP32 student teaches its fake-quantised twin. Accuracies are on validation "
    "images (agreement with the teacher where nothing is labelled); the better of the two twins ships."
)
KINDS = {"lsq": "weights and scales (lsq)", "ste": "weights (ste)"}


def table(record: RunRecord) -> Table:
    """One row per flavour that was distilled."""
    rows = []
    for log in record.training.values():
        method = log.get("method") if isinstance(log, Mapping) else None
        found = method.get("qad") if isinstance(method, Mapping) else None
        if isinstance(log, Mapping) and isinstance(found, Mapping):
            rows.append(_row(found, log.get("steps")))
    return Table(COLUMNS, tuple(rows), READING)


def _row(found: Mapping[str, Any], steps: Any) -> tuple[Cell, ...]:
    images, kept = found.get("images"), found.get("kept")
    kind = text.clean(found.get("kind", ""))
    return (
        Cell(text.clean(found.get("flavour", ""))),
        quiet(KINDS.get(kind, kind)),
        quiet(text.figure(images.get("count") if isinstance(images, Mapping) else None)),
        quiet(text.figure(steps)),
        *(quiet(_share(found.get(name))) for name in ("float", "before", "after")),
        Cell("distilled", tone="good") if kept is True else Cell("calibrated" if kept is False else text.NOT_MEASURED),
    )


def note(made: Mapping[str, Any], what: str) -> str:
    """What the ledger says of a distilled twin. what: ACC, or agreement."""
    found, log = made["log"]["method"]["qad"], made["log"]
    return (
        f"distilled after quantisation ({found['kind']}) from the FP32 student: {log['steps']} steps on "
        f"{found['images']['count']} images; validation {what} {_share(found['before'])} before, {_share(found['after'])} after, "
        f"{_share(found['float'])} in FP32{_ended(made)}"
    )


def warning(flavour: str, what: str, made: Mapping[str, Any], max_drop: float, limit: str) -> str | None:
    """What is said where INT8 costs more than the guard allows, or where its distillation was in vain.

    limit: what allows ``max_drop``, a flag or a setting.
    """
    if made["reached"] >= made["wanted"]:
        return None
    log, layers = made["log"], len(made["keep"])
    after = _share(log["method"]["qad"]["after"]) if log else ""
    tried = f" Quantisation-aware distillation reached {after}." if log else ""
    floats = f" with {layers} layer{'s' * (layers > 1)} in float" if layers else ""
    return (
        f"INT8 ({flavour}) has validation {what} {_share(made['calibrated'])}{floats}, FP32 {_share(made['float'])}: more than "
        f"the {100 * max_drop:.2g} points that {limit} allows{_ended(made)}.{tried} "
        f"The {'distilled' if made['sha256'] else 'calibrated'} twin ships."
    )


def _ended(made: Mapping[str, Any]) -> str:
    """That the guard's limit on layers ended its search; empty where it did not. Older runs do not say."""
    untried = made.get("untried", 0)
    return (
        f"; quantize.guard.most_float ended the search with {untried} more layer{'s' * (untried != 1)} to try"
        if untried
        else ""
    )


def _share(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return f"{100 * value:.2f} %" if number else text.NOT_MEASURED
