"""Whether plain distillation carries a teacher's backdoor over at all; a defence earns its figures only where it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd_device.metrics import defence_effectiveness

from ..types import RunRecord, StageRow, TriggerScore
from . import text
from .cells import Cell, Table, quiet, rate_cell

# plain distillation -> what it is, and the methods that stand on it
PLAIN = {"kd": "Hinton KD", "overhaul": "overhaul KD, the base of RobustKD"}
# method -> its setting ``base`` -> the plain distillations it stands on; the first is the default
BASES: dict[str, dict[str, tuple[str, ...]]] = {
    "robustkd": {"features": ("overhaul",), "logits": ("kd",)},
    "robustkd-plus": {"both": ("kd", "overhaul"), "features": ("overhaul",), "logits": ("kd",)},
}
SEEDS = 3  # a claim needs them
LEAST_ASR, LEAST_EXCESS = 50.0, 30.0  # percent; points above scratch
RULE = (
    "The bar: plain distillation of that kind, without any defence, carries the backdoor over at an ASR "
    f"of at least {LEAST_ASR:g} % and {LEAST_EXCESS:g} points above scratch. Below the bar, it loses the "
    "backdoor by itself, or does no more than a student that never met the teacher, so nothing is "
    f"claimed for a defence on that base. TRANSFERABLE means above the bar at {SEEDS} seeds; one run is "
    "one seed."
)
DER = (
    "DER, defence effectiveness rate: how far the student's ASR lies below that of the plain "
    "distillation, less the ACC it cost; 1 is best, 0.5 is no effect."
)
NO_TRIGGER = "No trigger was given: whether plain distillation carries a backdoor over was not measured."


def transferable(asr: float | None, excess: float | None) -> bool | None:
    """The rule. asr: mean over seeds in percent; excess: the same in points above scratch. None: not measured."""
    if asr is None or excess is None or asr != asr or excess != excess:
        return None
    return asr >= LEAST_ASR and excess >= LEAST_EXCESS


def verdict(carries: bool, seeds: int) -> str:
    """The rule's word, which needs as many seeds as a claim does; of fewer, on which side of the bar they stand."""
    if seeds >= SEEDS:
        return "TRANSFERABLE" if carries else "NOT TRANSFERABLE"
    return f"{'above' if carries else 'below'} the bar{beside(seeds)}"


def beside(seeds: int) -> str:
    """What stands beside a verdict of fewer seeds than a claim needs."""
    return "" if seeds >= SEEDS else f" ({seeds} seed{'s' * (seeds != 1)})"


@dataclass(frozen=True)
class Plain:
    """One plain distillation and one known trigger; without a score that control was not trained."""

    kind: str
    trigger: str
    score: TriggerScore | None
    der: float | None = None  # of the student that was measured last, against this control

    @property
    def carries(self) -> bool | None:
        if self.score is None or self.score.excess is None:
            return None
        return transferable(100 * self.score.asr.value, 100 * self.score.excess)

    @property
    def word(self) -> str:
        return text.NOT_MEASURED if self.carries is None else verdict(self.carries, 1)


def plain(record: RunRecord) -> tuple[Plain, ...]:
    """Every plain distillation under every known trigger of the record."""
    scores = [score for row in record.rows for score in row.triggers]
    triggers = dict.fromkeys(score.trigger for score in scores if score.origin == "known")
    last = next((row for row in reversed(record.rows) if row.kind == "stage" and row.acc and row.triggers), None)
    found = []
    for kind in PLAIN:
        row = _row(record, kind)
        found += [Plain(kind, trigger, _score(row, trigger), _der(row, last, trigger)) for trigger in triggers]
    return tuple(found)


def _row(record: RunRecord, kind: str) -> StageRow | None:
    """The control's; the student's own where the run's method is that plain distillation of the teacher as it came."""
    plainly = _method(record) == kind and not _repair(record) and not _defended(record)
    places = [("control", kind)] + [("stage", "student fp32")] * plainly
    return next((row for place in places for row in record.rows if (row.kind, row.stage) == place), None)


def _score(row: StageRow | None, trigger: str) -> TriggerScore | None:
    return next((score for score in row.triggers if score.trigger == trigger), None) if row is not None else None


def _der(before: StageRow | None, after: StageRow | None, trigger: str) -> float | None:
    """Defence effectiveness rate of one row against another; None where a figure is missing or it is the same row."""
    scores = _score(before, trigger), _score(after, trigger)
    if before is None or after is None or before.kind == "stage" or None in scores or not (before.acc and after.acc):
        return None
    old, new = scores
    assert old is not None
    assert new is not None
    return defence_effectiveness(before.acc.value, old.asr.value, after.acc.value, new.asr.value)


def _settings(record: RunRecord) -> Mapping[str, Any]:
    distill = record.config.get("distill")
    return distill if isinstance(distill, Mapping) else {}


def _method(record: RunRecord) -> str:
    return str(_settings(record).get("method", ""))


def _repair(record: RunRecord) -> str:
    """The repair that the teacher went through; empty: none."""
    found = record.config.get("repair")
    return str(found.get("method", "")) if isinstance(found, Mapping) else ""


def _defended(record: RunRecord) -> bool:
    """Whether a distillation without data was defended."""
    found = record.config.get("abd")
    return isinstance(found, Mapping) and bool(found) and bool(found.get("vaccine") or found.get("retrospection"))


def bases(record: RunRecord) -> tuple[str, ...]:
    """The plain distillations that the run's method is a defence on; none where it is none."""
    method = _method(record)
    known = BASES.get(method)
    if known is None:
        return (method,) if method in PLAIN and (_repair(record) or _defended(record)) else ()
    return known.get(str(_settings(record).get("base")), next(iter(known.values())))


def table(record: RunRecord) -> Table:
    """One row per plain distillation and known trigger; empty where no trigger is known."""
    rows = []
    for found in plain(record):
        measured, excess = found.score, None if found.score is None else found.score.excess
        tone = "quiet" if found.carries is None else "" if found.carries else "warn"
        rows.append(
            (
                Cell(found.kind, (PLAIN[found.kind],)),
                Cell(text.clean(found.trigger)),
                rate_cell(None if measured is None else measured.asr),
                quiet(text.points(excess)),
                quiet(text.NOT_MEASURED if found.der is None else f"{found.der:.3f}"),
                Cell(found.word, tone=tone),
            )
        )
    columns = ("plain distillation", "trigger", "ASR", "points above the floor", "DER of the student", "verdict")
    return Table(columns, tuple(rows), f"{RULE} {DER}" if rows else RULE)


def sentence(record: RunRecord) -> str:
    """What that means for the student of this run's method; empty where there is nothing to say."""
    found = plain(record)
    if not found:
        return NO_TRIGGER
    method, own = _method(record), [each for each in found if each.kind in bases(record)]
    base = " and ".join(bases(record))
    by_trigger: dict[str, set[bool | None]] = {each.trigger: set() for each in own}
    for each in own:
        by_trigger[each.trigger].add(each.carries)
    lost = [text.clean(trigger) for trigger, carries in by_trigger.items() if carries == {False}]
    if lost:
        return (
            f"Below the bar on {base}, the base of {method} ({', '.join(lost)}): a low ASR of the student is then "
            f"not due to the {'repair' if _repair(record) else 'detoxification'}."
        )
    if any(None in carries and True not in carries for carries in by_trigger.values()):
        return (
            f"The base of {method}, {base}, was not measured as a control: whether a low ASR of the "
            f"student is due to the {'repair' if _repair(record) else 'detoxification'} stays open."
        )
    return ""


def line(record: RunRecord) -> str:
    """The same for a terminal: one line, empty where no trigger is known."""
    found = plain(record)
    several = len({each.trigger for each in found}) > 1
    said = [
        f"{each.kind}{f', {text.clean(each.trigger)}' if several else ''} {each.word}{_figures(each)}" for each in found
    ]
    return f"Plain distillation: {'; '.join(said)}. {sentence(record)}".rstrip() if said else ""


def _figures(found: Plain) -> str:
    if found.carries is None or found.score is None:
        return ""
    return f", ASR {text.percent(found.score.asr)}, {text.points(found.score.excess)} points above the floor"
