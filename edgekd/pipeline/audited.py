"""What `edgekd audit` concludes: a verdict in one line and the ASR gate, from a model held against a reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..audit import FLAG_EXCESS
from ..types import AuditReport, Rate, StageRow, TriggerScore
from .ledger import ALARM_EXCESS, Found, gate, percent, row
from .suspects import Unjudged, above, suspects, unjudged, void, worst

UNTESTED = "No trigger was tested."


class Judged(NamedTuple):
    """verdict: one line. gates: that of --max-asr, if it was set. found: whether a trigger works.

    alarms: the triggers that work, and those that cannot be judged as the reference obeys them too. near: what is said of
    the public trigger that comes nearest to working, below the battery's threshold; empty where none comes near.
    """

    verdict: str
    gates: tuple[dict[str, Any], ...]
    found: bool
    alarms: tuple[str, ...] = ()
    near: str = ""


class Held(NamedTuple):
    """What was measured, by what can be said of it."""

    counted: tuple[TriggerScore, ...]  # given triggers and flagged canaries, with something to be held against
    voided: tuple[TriggerScore, ...]  # obeyed by the reference too
    near: tuple[Unjudged, ...]
    alone: bool  # without a reference

    @property
    def against(self) -> str:
        return "its untriggered rate" if self.alone else "the reference"


def judge(
    report: AuditReport, canaries: Mapping[str, Any] | None, reference: AuditReport | None, limit: float | None
) -> Judged:
    """``reference``: the same probes on a model that no attacker touched; without one the untriggered rate stands in.

    ``limit``: percent of ASR above it, of the worst trigger; None sets no gate. A gate over something that was not
    measured fails, as in a run.
    """
    held = _held(report, canaries, reference)
    alarms = [s for s in held.counted if _excess(s) > ALARM_EXCESS and s.floor and above(s.asr, s.floor)]
    gates = () if limit is None else (gate("ASR above floor", "%", limit, _measured(held, canaries, limit)),)
    both = [row["trigger"] for row in canaries.get("obeyed", ())] if canaries is not None else []
    named = dict.fromkeys([*(score.trigger for score in (*alarms, *held.voided)), *both])
    near = _below(held) if held.near else ""
    return Judged(_verdict(held, alarms, canaries), gates, bool(alarms), tuple(named), near)


def with_patch(judged: Judged, found: Mapping[str, Any] | None, limit: float | None) -> Judged:
    """The same where trigger inversion found a class that stands out: an alarm, and ASR for the gate."""
    if found is None or not found["stands_out"]:
        return judged
    success = Rate(**found["classes"][found["smallest"]]["success"])
    said = f"A PATCH of {found['classes'][found['smallest']]['pixels']:.1f} pixels throws {percent(success)} of held-out images into class {found['smallest']}."  # fmt: skip
    if judged.verdict != UNTESTED:
        said = f"{said} {judged.verdict}"
    gates = judged.gates
    if limit is not None and 100 * success.value > limit:
        gates = (gate("ASR above floor", "%", limit, Found(100 * success.value)),)
    return judged._replace(verdict=said, found=True, alarms=(*judged.alarms, "inverted"), gates=gates)


def _held(report: AuditReport, canaries: Mapping[str, Any] | None, reference: AuditReport | None) -> Held:
    scores = tuple(
        dataclasses.replace(score, floor=score.floor or score.untriggered)
        for score in (*report.triggers, *_canary_scores(canaries))
    )
    model = row("model", dataclasses.replace(report, triggers=scores), runtime="torch", precision="fp32", sha256="")
    control: StageRow | None = None
    if reference is not None:
        control = row("reference", reference, runtime="torch", precision="fp32", sha256="", kind="control")
    voided = () if reference is None else void(suspects(model, canaries), control)
    counted = tuple(
        s for s in suspects(model, canaries) if s not in voided and s.asr.total and s.floor and s.floor.total
    )
    return Held(counted, voided, unjudged(model, canaries, control), reference is None)


def _canary_scores(canaries: Mapping[str, Any] | None) -> tuple[TriggerScore, ...]:
    """One score for each canary of the battery's table, at the target where it does most."""
    found: dict[str, TriggerScore] = {}
    for line in [*canaries["flagged"], *canaries["worst"]] if canaries is not None else []:
        asr, ra, untriggered = (Rate(**line[key]) for key in ("asr", "ra", "untriggered"))
        floor = Rate(**line["floor"]) if line["floor"] else None
        found.setdefault(line["trigger"], TriggerScore(line["trigger"], "canary", asr, ra, untriggered, floor))
    return tuple(found.values())


def _excess(score: TriggerScore) -> float:
    return score.excess or 0.0


def _verdict(held: Held, alarms: Sequence[TriggerScore], canaries: Mapping[str, Any] | None) -> str:
    said = []
    strongest = worst(alarms)
    if strongest is not None:
        others = f", and {len(alarms) - 1} more" if len(alarms) > 1 else ""
        said.append(
            f"A trigger WORKS: {strongest.trigger} succeeds on {percent(strongest.asr)}, "
            f"{100 * _excess(strongest):.1f} points above {held.against}{others}."
        )
        if held.alone:
            said.append("Some pictures fool any network: compare with a clean network, given as --reference.")
    elif held.counted:
        said.append(f"No given trigger works: none is clearly above {held.against}.")
    if held.voided:
        said.append(f"Not judged: {_obeyed(held)}.")
    if canaries is not None and not canaries["flagged"]:
        said.append("The canary battery flags no public trigger.")
        said += [f"The nearest: {_below(held)}."] if held.near else []
    return " ".join(said) or UNTESTED


def _measured(held: Held, canaries: Mapping[str, Any] | None, limit: float) -> Found:
    excesses = [100 * _excess(score) for score in held.counted]
    if excesses and max(excesses) > limit:
        return Found(max(excesses))
    if held.voided:
        return Found(None, _obeyed(held))
    if held.near and round(100 * held.near[0].excess, 9) > limit:
        return Found(
            None, f"{_below(held)}; clean networks are misled that far too: compare with one, given as --reference"
        )
    if excesses:
        return Found(max(excesses))
    if canaries is None:
        return Found(None, "no trigger was measured: give one with --trigger, or try public ones with --canaries")
    return Found(None, "no trigger was given, and the canary battery flags none", nothing_counts=True)


def _obeyed(held: Held) -> str:
    named = ", ".join(f"{s.trigger} ({percent(s.floor)})" for s in held.voided[:3] if s.floor is not None)
    return (
        f"the reference obeys {named} too, so either it was attacked or the trigger fools any network; "
        "try another reference"
    )


def _below(held: Held) -> str:
    near = held.near[0]
    return (
        f"{near.trigger} is {100 * near.excess:.1f} points above {held.against}, below the threshold of "
        f"{100 * FLAG_EXCESS:g}: not judged"
    )
