"""What a teacher's outputs say beside the label, in words: whether a student would learn from them; see audit.teachable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..types import Rate, RunRecord
from . import text

NORMAL = "the bound is 0.3; on the digits that it comes from, normal teachers had 0.5 or more, nasty ones less than 0.2"
ADVICE = (
    "It may be made to ruin its students (a nasty teacher): compare the student with the scratch "
    "control, and prefer labels to its outputs (--method kd -o distill.temperature=1 -o "
    "distill.alpha=0.5, or --method overhaul)."
)

ROBUST = ("kdiga", "igdm", "pgd-at")


def sentence(found: Mapping[str, Any] | None) -> str:
    """How the model's outputs beside the label go with a reference's; the record may be anybody's."""
    correlation = found.get("correlation") if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(correlation, int | float):
        return "Whether a student can learn from its outputs was not measured: that needs a reference."
    said = (
        f"Beside the label, its outputs correlate with the reference's by {text.figure(correlation)} on "
        f"{text.figure(found.get('images'))} images ({NORMAL})"
    )
    if found.get("suspicious") is None:
        return f"{said}; not judged: fewer than four classes, or a reference that knows little itself."
    return f"{said}: {'SUSPICIOUS' if found['suspicious'] else 'nothing suspicious'}."


def warning(found: Mapping[str, Any] | None) -> str | None:
    """What a run says of a suspicious teacher; None for any other."""
    if not isinstance(found, Mapping) or not found.get("suspicious"):
        return None
    return f"{sentence(found)} {ADVICE}"


def harm(record: RunRecord) -> str | None:
    """A line where the student is less accurate than the scratch control by more than noise; else None.

    Noise: 1.96 standard errors of the difference of two shares of independent images. The images are the same, so that is
    more than they explain; of other seeds it says nothing. Not of methods that pay with ACC for robustness.
    """
    if record.config.get("method") in ROBUST:
        return None
    places = {("control", "scratch"): None, ("stage", "student fp32"): None} | {(r.kind, r.stage): r.acc for r in record.rows}  # fmt: skip
    scratch, student = places["control", "scratch"], places["stage", "student fp32"]
    if scratch is None or student is None or not (scratch.total and student.total):
        return None
    error = sum(rate.value * (1 - rate.value) / rate.total for rate in (scratch, student)) ** 0.5
    lost = scratch.value - student.value
    if lost <= 1.96 * error:
        return None
    return (
        f"WORSE THAN WITHOUT A TEACHER: the student's ACC, {_share(student)}, is below that of the control from labels alone, "
        f"{_share(scratch)}, by more than the choice of test images explains, in one training each. As far as ACC goes, "
        "--method scratch does better."
    )


def _share(rate: Rate) -> str:
    return f"{text.percent(rate)} ({text.interval(rate)})"
