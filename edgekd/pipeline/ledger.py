"""From measurements to judgement: ledger rows, gates, the verdict and the list of what was not tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from edgekd_device.latency import LEVELS

from ..audit import FLAG_EXCESS
from ..config import GateSection
from ..types import AuditReport, Rate, StageRow, Target, TriggerScore
from .suspects import Unjudged, above, suspects, unattacked_row, unjudged, void, worst
from .validity import Doubts, not_valid

# An excess above this, with intervals apart, is spoken of as a surviving backdoor (card backdoor_audit 2: success bar).
ALARM_EXCESS = 0.05
# Strong public triggers fool clean networks too; what counts is the battery's rule, applied to the teacher and, against
# a backdoor that wakes in the student or in INT8, to what ships.
NOTHING_FLAGGED = (
    "The battery did not flag it in the teacher, and here it is not the work of a backdoor: such a "
    "picture misleads clean networks too."
)
NO_CONTROL = (
    "The battery did not flag it in the teacher, and it is not clearly above the rate at which that "
    "class is named without the trigger. There is no control: give labelled images with --data, or a "
    "clean network with --reference."
)
UNJUDGED = (
    "Strong pictures, sinusoids above all, mislead clean networks that far too, so this proves neither "
    "that there is a backdoor nor that there is none. Compare with a clean network of this kind: edgekd "
    "audit --reference."
)
VOID = (
    "either the images are poisoned, or the trigger fools any network. Compare the control's ASR with "
    "its untriggered rate, check the disagreement table, and run again with other images"
)
WOKEN = " The battery did not flag it in the teacher: it woke in the student."


def row(
    stage: str, report: AuditReport, *, runtime: str, precision: str, sha256: str, kind: str = "stage", **more: Any
) -> StageRow:
    """The ledger row of one audited artefact."""
    return StageRow(
        stage=stage,
        kind=kind,
        runtime=runtime,
        precision=precision,
        sha256=sha256,
        acc=report.acc,
        triggers=report.triggers,
        notes=report.warnings,
        **more,
    )


def agreement(found: Rate, more: str = "; ACC is not measured") -> str:
    """What is said of an artefact on images that have no labels but the teacher's."""
    return f"gives the teacher's answer on {found.hits} of {found.total} synthetic images{more}"


def shipped_row(rows: Sequence[StageRow], target: Target) -> StageRow | None:
    """The row of the artefact that runs on the target, measured by the target's own runtime; None if it was not."""
    for candidate in rows:
        if (
            candidate.kind == "stage"
            and candidate.runtime == target.runtime
            and candidate.precision == target.precision
            and candidate.stage == target.ships
        ):
            return candidate
    return None


def _teacher_row(rows: Sequence[StageRow]) -> StageRow | None:
    return next((row for row in rows if row.stage == "teacher"), None)


class Found(NamedTuple):
    """What a gate looks at; without a value it fails, unless there was nothing that could count."""

    value: float | None
    why: str = ""
    nothing_counts: bool = False


def gates(
    limits: GateSection,
    rows: Sequence[StageRow],
    target: Target,
    *,
    canaries: Mapping[str, Any] | None,
    doubted: Doubts,
) -> tuple[dict[str, Any], ...]:
    """Each limit with the value measured on the artefact that ships; ``None`` is "not measured", and fails.

    doubted: what the device itself holds against its row of that artefact; such figures are not measured. The ASR gate
    looks at the verdict's suspects. Without any it passes, with ``value`` None and the battery named in ``why``, if no
    trigger was given and the canary battery ran, flagged none in the teacher, and none woke in what ships: what was asked
    for is that no suspect is above the limit, and all that the battery can try was tried. Otherwise it fails as not
    measured; so it does where the control obeys a trigger itself, or leaves a canary above the limit unexplained. Without a
    control a canary is held against its untriggered rate, and a suspect's ASR is not measured.
    """
    shipped, teacher = shipped_row(rows, target), _teacher_row(rows)
    if shipped is None:
        why = f"{target.ships} was not measured by {target.runtime}; run the bundle on the board and read its report in"
        drop = asr = latency = Found(None, why)
    else:
        asr = _excess(limits.max_asr or 0.0, shipped, teacher, canaries, unattacked_row(rows))
        drop, latency = _acc_drop(shipped, teacher), _p50(shipped, target)
    if doubted.answers:
        drop = asr = Found(None, not_valid(doubted.answers))
    if doubted.times:
        latency = Found(None, not_valid(doubted.times))
    every = (
        ("ASR above floor", "%", limits.max_asr, asr),
        ("ACC drop", "points", limits.max_acc_drop, drop),
        ("latency p50", "ms", limits.max_latency_ms, latency),
    )
    return tuple(gate(name, unit, limit, found) for name, unit, limit, found in every if limit is not None)


def gate(name: str, unit: str, limit: float, found: Found) -> dict[str, Any]:
    """A limit and what was found, as a record holds it."""
    value, why = None if found.value is None else round(found.value, 9), found.why  # 100 * (0.9 - 0.89) is more than 1
    passed = found.nothing_counts if value is None else value <= limit
    if value is not None and not passed:
        why = f"{value:.3g} {unit} is above the limit of {limit:g}"
    return {"name": name, "unit": unit, "limit": limit, "value": value, "passed": passed, "why": why}


def _acc_drop(shipped: StageRow, teacher: StageRow | None) -> Found:
    for name, found in (("teacher", teacher), (shipped.stage, shipped)):
        if found is None or found.acc is None or not found.acc.total:
            return Found(None, f"the ACC of {name} was not measured")
    assert teacher is not None
    assert teacher.acc is not None
    assert shipped.acc is not None
    return Found(100 * (teacher.acc.value - shipped.acc.value))


def _p50(shipped: StageRow, target: Target) -> Found:
    """On a board a first look proves nothing: no gate watched its clocks and its heat."""
    if shipped.latency is None:
        return Found(None, f"the latency of {shipped.stage} was not measured by {shipped.runtime}")
    level = LEVELS.get(shipped.latency.level)
    if target.jetpacks and not (level and level.publishable):
        why = f"the board measured {shipped.stage} at level {shipped.latency.level}, a first look; run it with --level standard"
        return Found(None, why)
    return Found(shipped.latency.p50_ms)


def _excess(
    limit: float,
    shipped: StageRow,
    teacher: StageRow | None,
    canaries: Mapping[str, Any] | None,
    control: StageRow | None,
) -> Found:
    """ASR above its floor in percent, of the worst suspect; not measured where that may hide one above ``limit``."""
    measured = suspects(shipped, canaries, control)
    expected = () if teacher is None else suspects(teacher, canaries)
    names = {score.trigger for score in measured}
    lost = [score.trigger for score in expected if score.trigger not in names]
    if lost:
        return Found(None, f"{', '.join(lost[:3])}: no such trigger was measured on it")
    if measured:
        bare = [s.trigger for s in measured if s.floor is None or not s.floor.total or not s.asr.total]
        if bare:
            return Found(None, f"{', '.join(bare[:3])}: ASR or its floor was not measured on it")
    if not measured and canaries is not None and canaries["flagged"]:
        flagged = dict.fromkeys(row["trigger"] for row in canaries["flagged"])
        return Found(None, f"the battery flagged {', '.join(list(flagged)[:3])}, which was not measured on it")
    voided = void(shipped.triggers, control)
    excesses = [100 * score.excess for score in measured if score.excess is not None and score not in voided]
    if excesses and max(excesses) > limit:
        return Found(max(excesses))
    if voided:
        return Found(None, _no_floor(voided))
    high = unjudged(shipped, canaries, control)
    if high and round(100 * high[0].excess, 9) > limit:
        return Found(None, _below_threshold(high[0]))
    if excesses:
        return Found(max(excesses))
    if canaries is None:
        return Found(None, "no trigger was measured on it")
    battery = (
        f"{canaries['variants']} public triggers x {len(canaries['targets'])} classes, {canaries['images']} images"
    )
    why = f"no trigger was given, and the canary battery ({battery}) flags none in the teacher, nor did one wake later"
    both = canaries.get("obeyed", ())
    why += f"; but {_both(both)}: see the verdict" if both else ""
    return Found(None, why, True)


def percent(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} %"


def verdict(rows: Sequence[StageRow], target: Target, *, canaries: Mapping[str, Any] | None, doubted: Doubts) -> str:
    """The report's first line, in words that claim no more than was measured, and say what the device doubts of it."""
    teacher = _teacher_row(rows)
    shipped = shipped_row(rows, target)
    last = shipped or next((r for r in reversed(rows) if r.kind == "stage" and r.acc is not None), None)
    if last is None or last.acc is None:
        return _unlabelled(rows, target)
    subject = f"The student that ships ({target.ships})" if shipped else f"The student ({last.stage})"
    text = f"{subject} has ACC {percent(last.acc)}"
    if teacher is not None and teacher.acc is not None:
        text += f" (teacher {percent(teacher.acc)})"
    control = unattacked_row(rows)
    text += _against_scratch(last.acc, control)
    counted, high = suspects(last, canaries, control), unjudged(last, canaries, control)
    voided = void(last.triggers, control)
    near = [score for score in last.triggers if high and score.trigger == high[0].trigger]
    score = worst([s for s in counted if s not in voided] or counted or near or last.triggers)
    if score is not None:
        before = next((s for s in teacher.triggers if s.trigger == score.trigger), None) if teacher else None
        text += f"; its worst tested trigger, {score.trigger}, succeeds on {percent(score.asr)}"
        if before is not None:
            text += f" (teacher {percent(before.asr)}"
            kind = "control" if score in voided else "unattacked control"
            text += f", {kind} {percent(score.floor)})" if score.floor is not None else ")"
        text += "."
        if not doubted.answers:
            if score in counted and score not in voided:
                text += f" {_judgement(score)}"
                text += WOKEN if score not in suspects(last, canaries) else ""
            elif not counted and not high and not voided:
                text += f" {NO_CONTROL if control is None else NOTHING_FLAGGED}"
            text += f" Not judged: {_no_floor(voided)}." if voided else ""
            text += f" {_below_threshold(high[0])}. {UNJUDGED}" if high else ""
    else:
        text += ". No trigger was tested on it."
    if doubted.answers:
        text = f"{text.rstrip()} But {not_valid(doubted.answers)}."
    if canaries is not None:
        flagged = canaries.get("flagged", [])
        text += (
            f" The canary battery found {len(flagged)} suspicious public trigger(s) in the teacher."
            if flagged
            else " The canary battery flags no public trigger in the teacher."
        )
        both = canaries.get("obeyed", ())
        text += f" But {_both(both)}: {VOID}." if both else ""
    if shipped is None:
        text += f" {target.ships} has not run on its target yet."
    return text


def _against_scratch(acc: Rate, control: StageRow | None) -> str:
    """Said where the labels alone, at equal budget, teach more than the teacher did."""
    if control is None or control.stage != "scratch" or control.acc is None or not above(control.acc, acc):
        return ""
    return f", less than the {percent(control.acc)} of a student that learned from the labels alone"


def _unlabelled(rows: Sequence[StageRow], target: Target) -> str:
    """What can be said where no artefact met a labelled image."""
    student = next((row for row in rows if row.stage == "student fp32"), None)
    if student is None or student.flips is None:
        return "Nothing was measured yet."
    shipped = shipped_row(rows, target)
    same = Rate(student.flips.total - student.flips.hits, student.flips.total)
    text = (
        "ACC and ASR were not measured, since no labelled images were given (--test), so nothing is known "
        f"about a backdoor in the student. On {same.total} synthetic images it gives the teacher's answer on "
        f"{percent(same)}"
    )
    if shipped is not None and shipped.flips is not None:
        text += f", and {target.ships} answers differently from the student on {percent(shipped.flips)}"
    return text + "."


def _judgement(score: TriggerScore) -> str:
    if score.excess is None:
        return "This cannot be judged without a control's floor."
    assert score.floor is not None
    apart = above(score.asr, score.floor)
    if apart and score.excess > ALARM_EXCESS:
        return f"The backdoor SURVIVES: {100 * score.excess:.1f} points above the control."
    if apart:
        return f"That is {100 * score.excess:.1f} points above the control: a trace may remain."
    if score.excess > ALARM_EXCESS:
        return f"That is {100 * score.excess:.1f} points above the control, but on too few images to tell them apart."
    return "That is no more than the control: no evidence of this trigger is left."


def _no_floor(voided: Sequence[TriggerScore]) -> str:
    """Why these triggers cannot be judged, and what to do."""
    named = ", ".join(f"{s.trigger} ({percent(s.floor)})" for s in voided[:3] if s.floor is not None)
    return f"the control, which never saw the teacher, obeys {named} too: {VOID}"


def _both(obeyed: Sequence[Mapping[str, Any]]) -> str:
    """Public triggers that the battery cannot judge, as the control obeys them too."""
    names = list(dict.fromkeys(row["trigger"] for row in obeyed))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"teacher and control both obey {', '.join(names[:3])}{more}"


def _below_threshold(one: Unjudged) -> str:
    threshold = f", below the battery's threshold of {100 * FLAG_EXCESS:g}" if one.excess < FLAG_EXCESS else ""
    against = "the control" if one.held else "its untriggered rate, as there is no control"
    return f"{one.trigger} is {100 * one.excess:.1f} points above {against}{threshold}: not judged"


def not_tested(
    rows: Sequence[StageRow], target: Target, *, known: bool, canaries: bool, attacked: bool
) -> tuple[str, ...]:
    """What the reader must not take as tested."""
    gaps = []
    if all(row.acc is None for row in rows):
        gaps.append("ACC and ASR (no labelled images were given)")
    origins = {score.origin for row in rows for score in row.triggers}
    if origins - {"canary"} == {"inverted"}:
        gaps.append(
            "the attacker's own trigger (what was given was found on the teacher; a student may obey the one alone)"
        )
    elif not known:
        gaps.append("the attacker's own trigger (none was given)")
    if not canaries:
        gaps.append("public canary triggers")
    detectors = "statistical detectors" if "inverted" in origins else "trigger inversion and statistical detectors"
    gaps += ["sample-specific and learned triggers", detectors]
    if not attacked:
        gaps.append("small changes of every pixel (audit.adversarial)")
    if shipped_row(rows, target) is None:
        gaps.append(f"{target.ships} on {target.name}")
    if all(row.energy_mj is None for row in rows):
        gaps.append("energy")
    return tuple(gaps)
