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
        description="learn from a teacher that was not audited, or that failed its audit: its slopes can carry a backdoor of "
        "the whole image that its outputs on clean images do not",
    )


def needs_audit(settings: Settings) -> bool:
    """Whether a method of these settings refuses a teacher without an audit."""
    return isinstance(settings, VettedSettings) and not settings.trust_teacher


def refuse_unvetted(method: str, settings: Settings, report: AuditReport | None) -> None:
    """Raise UnsafeInput for a teacher whose audit was not run (None, or not judged), or found a trigger that works.

    How an output changes with each pixel shows the direction of a pervasive trigger, also on clean images (method card
    kdiga 9.2): what transfers robustness best revives such a backdoor.
    """
    if not needs_audit(settings):
        return
    why = f"The method {method!r} copies how the teacher's outputs change with each pixel, and with that a backdoor of the whole image"
    trust = "or, if you know where it comes from, set distill.trust_teacher=true"
    if report is None or report.alarms is None:
        raise UnsafeInput(
            f"{why}: it takes no teacher that was not audited, and this one was not. `edgekd compress` audits it with public "
            f"triggers first (unless audit.canaries=false); otherwise choose another method (--method overhaul), {trust}."
        )
    if report.alarms:
        more = len(report.alarms) - MOST_NAMED
        named = ", ".join(report.alarms[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        raise UnsafeInput(
            f"{why}; and the audit of this teacher found that a trigger works on it: {named}. Choose a method that is made "
            f"for such teachers (--method robustkd-plus), have it repaired first (--repair), {trust}."
        )
