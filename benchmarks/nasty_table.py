"""Nasty teachers as tables: what students lose, who survives, and whom the audit's statistics point at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.main_job_table import head, line, provenance, spread
from benchmarks.paired import Difference, paired, pooled, values
from edgekd.report import text
from edgekd.report.transferability import beside

Record = dict[str, Any]
Rows = dict[str, dict[int, Record]]  # row -> seed -> result
SCRATCH, TWIN = "scratch", "twin"
HARMED = ("KD", "KD, tau 20")  # by a nasty teacher, or it is none
MOST_BELOW = 1.0  # points below scratch up to which a method survives
MOST_LOST = 2.0  # points of ACC below its twin from which on a nasty teacher is none
SMALL = 1.0  # points of drop that are none
COLUMNS = ("row", "ACC %", "drop against the twin", "over scratch", "verdict")
DETECTOR = ("teacher", "kind", "ACC %", "KL to normal", "correlation", "second class", "entropy", "mass at τ 4", "verdict", "right")  # fmt: skip
READING = (
    "Drops and gains in points of ACC, paired over seeds, with a 95 % interval (Student's t, the spread pooled over a teacher's rows): "
    "for these networks and images. survives: a drop whose interval holds 0 or that is at most "
    f"{SMALL:g}, and at most {MOST_BELOW:g} below scratch; harmed: a larger drop; ruined: further below scratch. KL to normal: in "
    "nats, from the network they began as, softened as in their loss. Correlation to mass: beside three scratch students."
)


def tables(records: Sequence[Record]) -> str:
    """Students of each teacher, then the detector."""
    found: dict[str, Rows] = {}
    for record in records:
        config = record["config"]
        if config["part"] == "student":
            rows = found.setdefault(config["teacher"], {})
            rows.setdefault(config["row"], {})[config["seed"]] = record["result"]
    like = next(filter(None, (_acc(r) for r in records if r["config"]["teacher"] == TWIN)), None)
    parts = [_students(name, found[name], found.get(TWIN, {}), like) for name in sorted(found, key=_twin_first)]
    seen = [record for record in records if record["config"]["part"] == "detector"]
    return "\n\n".join([*parts, *([_detector(seen, like)] if seen else []), READING, provenance(records)])


def _acc(record: Record) -> float | None:
    """A teacher's own; a student without a teacher says nothing of it."""
    found: float | None = record["result"].get("teacher_acc")
    return found


def _students(teacher: str, rows: Rows, twin: Rows, like: float | None) -> str:
    acc = next((one["teacher_acc"] for row in rows.values() for one in row.values() if "teacher_acc" in one), None)
    scratch = values(twin.get(SCRATCH, {}))
    drops = {name: (values(twin.get(name, {})), values(rows[name])) for name in rows}
    common = pooled(drops.values()), pooled((values(row), scratch) for name, row in rows.items() if name != SCRATCH)
    fallen = {name: paired(*pair, common[0]) for name, pair in drops.items()}
    why = "" if teacher == TWIN or acc is None else _void(acc, like) or _harmless(fallen.get(name) for name in HARMED)
    about = [*([] if acc is None else [f"ACC {acc:.1f} %"]), *([f"**{why}**"] if why else [])]
    title = f"**{text.markdown(teacher)}**" + (f" ({'; '.join(about)})" if about else "")
    lines = [title, "", *head(COLUMNS)]
    for name in sorted(rows, key=_usual_first):
        drop, gain = fallen[name], None if name == SCRATCH else paired(values(rows[name]), scratch, common[1])
        lines.append(
            line(
                [
                    text.markdown(name),
                    spread(values(rows[name]).values()),
                    "–" if teacher == TWIN else _shown(drop),
                    "–" if name == SCRATCH else _shown(gain),
                    "–" if teacher == TWIN or why else survives(drop, gain),
                ]
            )
        )
    return "\n".join(lines)


def _shown(found: Difference | None) -> str:
    return text.NOT_MEASURED if found is None else str(found)


def lost(result: Record, like: float) -> float:
    """Points of ACC of a teacher below its twin."""
    return float(like - result["teacher_acc"])


def _void(acc: float, like: float | None) -> str:
    """Why a nasty teacher is none: nobody would distil it."""
    if like is None or like - acc <= MOST_LOST:
        return ""
    return f"void: {like - acc:.1f} points below its twin"


def _harmless(drops: Iterable[Difference | None]) -> str:
    """Why a nasty teacher does not count by what Hinton KD lost; empty where it lost more than seeds do."""
    found = [drop for drop in drops if drop is not None]
    if any(drop.mean > 0 and not drop.holds(0) for drop in found):
        return ""
    if not found or any(drop.half is None for drop in found):
        return "open whether it harms KD"
    return "did not harm KD: nothing to survive"


def survives(drop: Difference | None, gain: Difference | None) -> str:
    """Of a method on a teacher that harms Hinton KD."""
    if drop is None or gain is None:
        return "open, without twin or scratch"
    if gain.mean < -MOST_BELOW:
        return "**ruined**" + beside(gain.seeds)
    if drop.half is None:
        return "open" + beside(drop.seeds)
    return ("survives" if drop.holds(0) or drop.mean <= SMALL else "**harmed**") + beside(drop.seeds)


def _detector(records: Sequence[Record], like: float | None) -> str:
    nasty = [record["result"] for record in records if record["config"]["kind"] == "nasty"]
    void = sum(bool(_void(result["teacher_acc"], like)) for result in nasty)
    counted = (
        f"{len(nasty)} nasty teachers{f', {void} of them void' if void else ''}, {len(records) - len(nasty)} others"
    )
    lines = [f"**What the audit says of them** ({counted})", "", *head(DETECTOR)]
    for record in sorted(records, key=lambda one: _mean(one, "correlation")):
        config, result = record["config"], record["result"]
        is_void = config["kind"] == "nasty" and bool(_void(result["teacher_acc"], like))
        said = {one["suspicious"] for one in result["teaching"]}
        if len(said) > 1:
            verdict, right = f"{sum(one['suspicious'] is True for one in result['teaching'])} of {len(result['teaching'])} SUSPICIOUS", "divided"  # fmt: skip
        else:
            (suspicious,) = said
            verdict = "not judged" if suspicious is None else "SUSPICIOUS" if suspicious else "nothing suspicious"
            right = "–" if suspicious is None else "yes" if suspicious is (config["kind"] == "nasty") else "**no**"
        lines.append(
            line(
                [
                    text.markdown(config["teacher"]),
                    f"{config['kind']}, void" if is_void else config["kind"],
                    f"{result['teacher_acc']:.1f}",
                    f"{result['kl']:.2f}" if "kl" in result else "–",
                    spread(one["correlation"] for one in result["teaching"]),
                    f"{100 * _mean(record, 'second'):.0f} %",
                    f"{_mean(record, 'entropy'):.2f}",
                    " / ".join(f"{share:.2f}" for share in result["teaching"][0]["mass"]),
                    verdict,
                    "–" if is_void else right,
                ]
            )
        )
    return "\n".join(lines)


def _mean(record: Record, key: str) -> float:
    found = [float(one[key]) for one in record["result"]["teaching"]]
    return sum(found) / len(found)


def _usual_first(name: str) -> tuple[bool, bool, str]:
    return (name != SCRATCH, name not in HARMED, name)


def _twin_first(name: str) -> tuple[bool, str]:
    return (name != TWIN, name)
