"""Nasty teachers as tables: what students lose, who survives, and whom the audit's statistics point at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, mean, provenance, spread
from edgekd.report import text
from edgekd.report.transferability import beside

Record = dict[str, Any]
Rows = dict[str, dict[int, Record]]  # row -> seed -> result
SCRATCH, TWIN = "scratch", "twin"
MOST_BELOW = 1.0  # points below scratch up to which a method survives
MOST_LOST = 2.0  # points below the clean network from which on a nasty teacher is none
COLUMNS = ("row", "ACC %", "drop against the twin", "over scratch", "verdict")
DETECTOR = ("teacher", "kind", "ACC %", "correlation", "second class", "entropy", "mass at τ 4", "verdict", "right")


def tables(records: Sequence[Record]) -> str:
    """Students of each teacher, then the detector; drops and gains in points of ACC over the seeds that both have."""
    found: dict[str, Rows] = {}
    for record in records:
        config = record["config"]
        if config["part"] == "student":
            rows = found.setdefault(config["teacher"], {})
            rows.setdefault(config["row"], {})[config["seed"]] = record["result"]
    scratch = found.get(TWIN, {}).get(SCRATCH, {})
    parts = [_students(name, found[name], found.get(TWIN, {}), scratch) for name in sorted(found, key=_twin_first)]
    seen = [record for record in records if record["config"]["part"] == "detector"]
    return "\n\n".join([*parts, *([_detector(seen)] if seen else []), provenance(records)])


def _students(teacher: str, rows: Rows, twin: Rows, scratch: dict[int, Record]) -> str:
    result = next(iter(next(iter(rows.values())).values()))
    void = f"; **void: {_lost(result):.1f} points below the clean network**" if _void(result) else ""
    lines = [f"**{text.markdown(teacher)}** (ACC {result['teacher_acc']:.1f} %{void})", "", *head(COLUMNS)]
    for name in rows:
        results = rows[name]
        drops = [twin[name][seed]["acc"] - one["acc"] for seed, one in results.items() if seed in twin.get(name, {})]
        gains = [one["acc"] - scratch[seed]["acc"] for seed, one in results.items() if seed in scratch]
        lines.append(
            line(
                [
                    text.markdown(name),
                    spread(one["acc"] for one in results.values()),
                    "–" if teacher == TWIN else spread(drops, "{:+.2f}".format),
                    "–" if name == SCRATCH else spread(gains, "{:+.2f}".format),
                    "–" if name == SCRATCH else survives(gains),
                ]
            )
        )
    return "\n".join(lines)


def _lost(result: Record) -> float:
    """Points of ACC below the clean network."""
    return float(result["clean_acc"] - result["teacher_acc"])


def _void(result: Record) -> bool:
    """Whether a nasty teacher is none, as nobody would distil it."""
    return _lost(result) > MOST_LOST


def survives(gains: Sequence[float]) -> str:
    """Of a method by its points over scratch: a teacher must not make a student worse than none."""
    gain = mean(gains) if gains else None
    if gain is None:
        return "open, without scratch"
    return ("survives" if gain >= -MOST_BELOW else "**ruined**") + beside(len(gains))


def _detector(records: Sequence[Record]) -> str:
    nasty = [record["result"] for record in records if record["config"]["kind"] == "nasty"]
    void = sum(map(_void, nasty))
    counted = (
        f"{len(nasty)} nasty teachers{f', {void} of them void' if void else ''}, {len(records) - len(nasty)} others"
    )
    lines = [f"**What the audit says of them** ({counted})", "", *head(DETECTOR)]
    for record in sorted(records, key=lambda one: one["result"]["teaching"]["correlation"]):
        config, found = record["config"], record["result"]["teaching"]
        suspicious = found["suspicious"]
        verdict = "not judged" if suspicious is None else "SUSPICIOUS" if suspicious else "nothing suspicious"
        void_one = config["kind"] == "nasty" and _void(record["result"])
        right = (
            "–" if suspicious is None or void_one else "yes" if suspicious is (config["kind"] == "nasty") else "**no**"
        )
        lines.append(
            line(
                [
                    text.markdown(config["teacher"]),
                    f"{config['kind']}, void" if void_one else config["kind"],
                    f"{record['result']['teacher_acc']:.1f}",
                    f"{found['correlation']:.2f}",
                    f"{100 * found['second']:.0f} %",
                    f"{found['entropy']:.2f}",
                    " / ".join(f"{share:.2f}" for share in found["mass"]),
                    verdict,
                    right,
                ]
            )
        )
    return "\n".join(lines)


def _twin_first(name: str) -> tuple[bool, str]:
    return (name != TWIN, name)
