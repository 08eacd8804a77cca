"""Methods that carry more of a teacher over than its outputs, and whom they refuse to learn from."""

from __future__ import annotations

from pydantic import Field

from ..errors import UnsafeInput
from ..training import Settings
from ..types import AuditReport

MOST_NAMED = 3


class VettedSettings(Settings):
    """Settings of a method that takes audited teachers only."""

    trust_teacher: bool = Field(
        False,
        description="learn from a teacher that was not audited, or that failed its audit: its input gradients can carry "
        "a whole-image backdoor that its outputs on clean images do not; you are warned of public triggers "
        "below the battery's threshold",
    )


def needs_audit(settings: Settings) -> bool:
    """Whether a method of these settings refuses a teacher without an audit."""
    return isinstance(settings, VettedSettings) and not settings.trust_teacher


def refuse_unvetted(method: str, settings: Settings, report: AuditReport | None, teacher: str = "") -> None:
    """Raise UnsafeInput for a teacher whose audit was not run, tried no public trigger, or found one that works.

    teacher: the hash of its weights; the audit of another network says nothing of this one. How an output changes with
    each pixel shows the direction of a pervasive trigger, also on clean images (method card kdiga 9.2): what transfers
    robustness best revives such a backdoor. A trigger that a network without a teacher obeys as well counts as one that
    works; one below the battery's threshold does not.
    """
    if not needs_audit(settings):
        return
    why = (
        f"The method {method!r} copies how the teacher's outputs change with each pixel, and so would copy a "
        "whole-image backdoor"
    )
    trust = "or, if you know where it comes from, trust it (-o distill.trust_teacher=true)"
    if report is None or report.alarms is None or report.canaries is None:
        raise UnsafeInput(
            f"{why}: it refuses a teacher that was not audited, and this one was not. `edgekd compress` first "
            "audits the teacher with public triggers on labelled images (with --data none give some with "
            f"--test), unless audit.canaries=false; otherwise choose another method (--method overhaul), {trust}."
        )
    if report.model_sha256 != teacher:
        raise UnsafeInput(f"{why}: the given audit is of other weights than this teacher's. Audit this teacher.")
    if report.alarms:
        more = len(report.alarms) - MOST_NAMED
        named = ", ".join(report.alarms[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise UnsafeInput(
            f"{why}; and the audit of this teacher found that a trigger works on it: {named}. In a new folder "
            "(--out), choose a method made for such teachers (--method robustkd-plus), repair it first "
            f"(--repair), {trust}."
        )
