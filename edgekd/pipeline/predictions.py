"""Audit reports on disk: the figures as JSON, the predictions as arrays beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_npz
from ..types import AuditReport, Rate, TriggerScore

FILE = "predictions.npz"


def save_audit(folder: Path, report: AuditReport) -> dict[str, Any]:
    """Write the predictions into ``folder`` and return the rest as JSON."""
    assert report.predictions is not None
    arrays = {"clean": report.predictions}
    for number, values in enumerate(report.triggered_predictions.values()):
        arrays[f"trigger{number}"] = values
    write_npz(folder / FILE, "predictions", **arrays)
    return {
        "files": [FILE],
        "acc": report.acc.to_json(),
        "triggers": [score.to_json() for score in report.triggers],
        "order": list(report.triggered_predictions),
        "probe_sha256": report.probe_sha256,
        "warnings": list(report.warnings),
    }


def load_audit(folder: Path, result: dict[str, Any]) -> AuditReport:
    """The report that ``save_audit`` wrote."""
    with np.load(folder / FILE, allow_pickle=False) as arrays:
        predictions = arrays["clean"]
        triggered = {name: arrays[f"trigger{number}"] for number, name in enumerate(result["order"])}
    return AuditReport(
        acc=Rate(**result["acc"]),
        triggers=tuple(TriggerScore.from_json(score) for score in result["triggers"]),
        probe_sha256=result["probe_sha256"],
        predictions=predictions,
        triggered_predictions=triggered,
        warnings=tuple(result["warnings"]),
    )
