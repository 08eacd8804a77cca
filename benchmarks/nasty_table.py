"""Nasty teachers as tables: what students lose, who survives, and whom the audit's statistics point at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.main_job_table import head, line, provenance, spread
from benchmarks.paired import Difference, Figures, Spread, acc, crossed, paired, pooled, values
from edgekd.report import text
from edgekd.report.transferability import beside

Record = dict[str, Any]
Rows = dict[str, dict[int, Record]]  # row -> seed -> result
SCRATCH, TWIN = "scratch", "twin"
HARMED = ("KD", "KD, tau 20")  # by a nasty teacher, or it is none
MOST_BELOW = 1.0  # points below scratch up to which a method survives
MOST_LOST = 2.0  # points of ACC below its twin from which on a nasty teacher is none
SMALL = 1.0  # points of drop that are none
WILD = 2.0  # times the spread of its group, above which a row has its own
COLUMNS = ("row", "ACC %", "drop against the twin", "over scratch", "verdict")
DETECTOR = ("teacher", "kind", "ACC %", "KL to normal", "correlation", "second class", "entropy", "mass at τ 4", "verdict", "right")  # fmt: skip
READING = (
    "Drops and gains in points of ACC, paired over seeds, with a 95 % interval (Student's t; the spread is that of both rows of Hinton KD, "
    f"which a nasty teacher is made against, or that of all others; its own where that is over {WILD:g} times as large): for these networks "
    "and images. survives: a drop whose interval ends "
    f"at {SMALL:g} or below, and a gain whose interval begins at -{MOST_BELOW:g} or above; harmed: a drop whose interval begins above "
    f"{SMALL:g}; ruined: harmed, and a gain whose interval ends below -{MOST_BELOW:g}; open: neither. Diverged: a loss that was not finite, "
    "where it was on the twin. KL to normal: in nats, from the network they began as, softened as in their loss. Correlation to mass: "
    "beside three scratch students."
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
    own = next((one["teacher_acc"] for row in rows.values() for one in row.values() if "teacher_acc" in one), None)
    drops, gains = _differences(rows, twin)
    gone = {name for name, row in rows.items() if _diverges(row, twin.get(name, {}))}
    why = ""
    if teacher != TWIN:
        why = _void(own, like) or _harmless(
            (drops[name] for name in HARMED if name in drops), not gone.isdisjoint(HARMED)
        )
    about = [*([] if own is None else [f"ACC {own:.1f} %"]), *([f"**{why}**"] if why else [])]
    lines = [f"**{text.markdown(teacher)}**" + (f" ({'; '.join(about)})" if about else ""), "", *head(COLUMNS)]
    for name in sorted(rows, key=_usual_first):
        verdict = "**diverged**" if name in gone else survives(drops[name], gains.get(name))
        lines.append(
            line(
                [
                    text.markdown(name),
                    acc(rows[name]),
                    "–" if teacher == TWIN else _shown(drops[name]),
                    "–" if name == SCRATCH else _shown(gains[name]),
                    "–" if teacher == TWIN or why else verdict,
                ]
            )
        )
    return "\n".join(lines)


def _differences(rows: Rows, twin: Rows) -> tuple[dict[str, Difference | None], dict[str, Difference | None]]:
    """By row, what it loses against the twin and what it has over scratch.

    What ruins Hinton KD makes its seeds differ, so those two rows have a common spread of their own.
    """
    figures, scratch = {name: values(row) for name, row in rows.items()}, values(twin.get(SCRATCH, {}))
    drops: dict[str, Difference | None] = {}
    gains: dict[str, Difference | None] = {}
    for names in ([name for name in rows if (name in HARMED) is harmed] for harmed in (True, False)):
        pairs = {name: (values(twin.get(name, {})), figures[name]) for name in names}
        taught = [name for name in names if name != SCRATCH]
        common: Spread | None = pooled(pairs.values())
        drops |= {name: _held(*pair, common) for name, pair in pairs.items()}
        common = crossed([scratch, *(figures[name] for name in taught)])
        gains |= {name: _held(figures[name], scratch, common) for name in taught}
    return drops, gains


def _held(row: Figures, other: Figures, common: Spread | None) -> Difference | None:
    """By the common spread; a row that scatters far more than the others by its own."""
    own = pooled([(row, other)])
    return paired(row, other, own if own and common and own.deviation > WILD * common.deviation else common)


def _diverges(row: Mapping[int, Record], twin: Mapping[int, Record]) -> bool:
    """Whether a seed did that is fine on the twin."""
    return any("diverged" in one and "acc" in twin.get(seed, {}) for seed, one in row.items())


def _shown(found: Difference | None) -> str:
    return text.NOT_MEASURED if found is None else str(found)


def lost(result: Record, like: float) -> float:
    """Points of ACC of a teacher below its twin."""
    return float(like - result["teacher_acc"])


def _void(own: float | None, like: float | None) -> str:
    """Why a nasty teacher is none: nobody would distil it."""
    if own is None:
        return "void: it diverged while it was made"
    if like is None or like - own <= MOST_LOST:
        return ""
    return f"void: {like - own:.1f} points below its twin"


def _harmless(drops: Iterable[Difference | None], diverged: bool) -> str:
    """Why a nasty teacher does not count by what Hinton KD lost; empty where it lost more than seeds do, or diverged."""
    found = [drop for drop in drops if drop is not None]
    if diverged or any(drop.low > 0 for drop in found):
        return ""
    if not found or any(drop.half is None for drop in found):
        return "open whether it harms KD"
    return "did not harm KD: nothing to survive"


def survives(drop: Difference | None, gain: Difference | None) -> str:
    """Of a method on a teacher that harms Hinton KD, by whole intervals: a wide one leaves it open."""
    if drop is None or gain is None:
        return "open, without twin or scratch"
    if drop.low > SMALL:
        word = "**ruined**" if gain.high < -MOST_BELOW else "**harmed**"
    else:
        word = "survives" if drop.high <= SMALL and gain.low >= -MOST_BELOW else "open"
    return word + beside(min(drop.seeds, gain.seeds))


def _detector(records: Sequence[Record], like: float | None) -> str:
    gone = [record for record in records if "diverged" in record["result"]]
    records = [record for record in records if "diverged" not in record["result"]]
    nasty = [record["result"] for record in records if record["config"]["kind"] == "nasty"]
    void = sum(bool(_void(result["teacher_acc"], like)) for result in nasty)
    counted = (
        f"{len(nasty)} nasty teachers{f', {void} of them void' if void else ''}, {len(records) - len(nasty)} others"
        + (f"; diverged: {', '.join(sorted(record['config']['teacher'] for record in gone))}" if gone else "")
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
