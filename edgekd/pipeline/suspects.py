"""Which triggers count against a network, and which cannot be judged: by the battery's rule and by the control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..audit import FLAG_EXCESS
from ..types import Rate, StageRow, TriggerScore

# A control that obeys a trigger this often, this far above what it calls the class anyway, gives no floor.
VOID_FLOOR, VOID_ABOVE = 0.5, 0.3
UNATTACKED = ("scratch", "reference")  # controls that no attacker touched; a run has one of them or none


def suspects(
    row: StageRow, canaries: Mapping[str, Any] | None, control: StageRow | None = None
) -> tuple[TriggerScore, ...]:
    """The triggers that count: given ones, canaries that the battery flagged in the teacher, and those woken here."""
    found = {flagged["trigger"] for flagged in canaries["flagged"]} if canaries is not None else set()
    found |= woken(row, control)
    return tuple(score for score in row.triggers if score.origin != "canary" or score.trigger in found)


def woken(row: StageRow, control: StageRow | None) -> set[str]:
    """Canaries that meet the battery's rule in this row: FLAG_EXCESS above the floor, intervals apart.

    control: the row that gives the floors. A picture that throws it into some class proves nothing wherever it throws others:
    where its RA falls below half its ACC the canary does not count.
    """
    if control is None or control.acc is None:
        return set()
    left_alone = {s.trigger for s in control.triggers if s.ra.total} - _broken(control)
    return {
        score.trigger
        for score in row.triggers
        if score.origin == "canary"
        and score.trigger in left_alone
        and score.floor is not None
        and score.excess is not None
        and score.excess >= FLAG_EXCESS
        and above(score.asr, score.floor)
    }


class Unjudged(NamedTuple):
    """A canary above the control that the battery's rule does not reach."""

    trigger: str
    excess: float  # above the control, wherever the trigger drives that: a fraction
    held: bool = True  # against a control; without one, against the rate without the trigger


def unjudged(
    row: StageRow, canaries: Mapping[str, Any] | None, control: StageRow | None = None
) -> tuple[Unjudged, ...]:
    """Canaries that are no suspects although the control does not explain them; the farthest above it first.

    Without a control the untriggered rate stands in, and explains nothing beyond itself.
    What explains one: the control goes to that class as often, or to any one class (the battery's collapse), or loses
    the images' own labels. A void floor explains nothing, and is told apart (``void``).
    """
    counted = {score.trigger for score in suspects(row, canaries, control)} | _broken(control)
    counted |= {score.trigger for score in void(row.triggers, control)}
    collapse = _collapses(canaries)
    found = []
    for score in row.triggers:
        held = score.floor is not None or control is not None
        floor = score.floor if held else score.untriggered
        if score.trigger in counted or floor is None or not floor.total:
            continue
        reference = max(floor, collapse.get(score.trigger, floor), key=lambda rate: rate.value)
        if above(score.asr, reference):
            found.append(Unjudged(score.trigger, score.asr.value - reference.value, held))
    return tuple(sorted(found, key=lambda one: -one.excess))


def void(scores: Sequence[TriggerScore], control: StageRow | None) -> tuple[TriggerScore, ...]:
    """Those whose floor is none, as the control obeys them itself.

    It is trained on the user's images and labels: where these are poisoned it is as backdoored as the teacher. Without
    the control's untriggered rate its whole ASR counts.
    """
    bare = {score.trigger: score.untriggered for score in control.triggers} if control is not None else {}

    def obeyed(score: TriggerScore) -> bool:
        clean = bare.get(score.trigger)
        before = clean.value if clean is not None and clean.total else 0.0
        return score.floor is not None and score.floor.value >= VOID_FLOOR and score.floor.value - before >= VOID_ABOVE

    return tuple(score for score in scores if obeyed(score))


def above(rate: Rate, reference: Rate) -> bool:
    """Whether a rate lies above another with the 95 % intervals apart."""
    return rate.interval()[0] > reference.interval()[1]


def unattacked_row(rows: Sequence[StageRow]) -> StageRow | None:
    """The control that gives every floor."""
    return next((row for row in rows if row.kind == "control" and row.stage in UNATTACKED), None)


def worst(scores: Sequence[TriggerScore]) -> TriggerScore | None:
    """The trigger that raises its label's rate most."""
    return max(scores, key=lambda s: s.raised, default=None)


def _broken(control: StageRow | None) -> set[str]:
    """Triggers under which the control loses more than half of its ACC."""
    if control is None or control.acc is None:
        return set()
    return {s.trigger for s in control.triggers if s.ra.total and s.ra.value < control.acc.value / 2}


def _collapses(canaries: Mapping[str, Any] | None) -> dict[str, Rate]:
    """How often the battery's control goes to the class it falls into most, by trigger."""
    rows = [*canaries.get("worst", ()), *canaries["flagged"]] if canaries is not None else []
    return {row["trigger"]: Rate(**row["collapse"]) for row in rows if row.get("collapse")}
