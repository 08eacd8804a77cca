"""Distillation without data as tables: one per source and teacher, every row beside the plain source, and the bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, mean, provenance, spread
from edgekd.report import text
from edgekd.report.transferability import beside

Record = dict[str, Any]
Rows = dict[str, dict[int, Record]]  # row -> seed -> result
PLAIN, LONGER, ABD, WITH_DATA, CLEAN = "plain", "plain, longer", "+ABD", "KD on clean data", "clean"
ORDER = (PLAIN, LONGER, "+SV", "+SR", ABD, WITH_DATA)
COUNTS = {"patches": 70.0, "zskt": 50.0}  # ACC of the plain source from which on a teacher's rows count
CARRIES, ABOVE, LEFT, MOST_LOSS, MOST_LOSS_CLEAN = 50.0, 30.0, 15.0, 6.0, 2.0  # percent of ASR; points
RAISED, MOST_SHIFT = 1.0, 2.0  # points of ASR: by ABD on a clean teacher, of INT8 above FP32
TRIGGERS = 2  # at least so many must be carried over by the plain source
COLUMNS = ("row", "seeds", "ACC %", "ASR %", "floor %", "RA %", "INT8 ACC %", "INT8 ASR %", "agreement %", "vaccine", "retrospection", "steps", "minutes")  # fmt: skip


def tables(records: Sequence[Record]) -> str:
    """Mean [lowest to highest] over seeds. Agreement: with the teacher, on patches that nothing was trained on.

    Floor: what the plain student of the clean teacher, from the same source, makes of the trigger.
    """
    found: dict[tuple[Any, ...], Rows] = {}
    with_data: dict[str, dict[int, Record]] = {}
    for record in records:
        config, seed = record["config"], record["config"]["seed"]
        if config["row"] == WITH_DATA:  # of its own length, beside every source of its teacher
            with_data.setdefault(config["teacher"], {})[seed] = record["result"]
            continue
        key = (config["source"], config["teacher"], config["student"], config["epochs"])
        images = config["options"].get("images", 0)
        found.setdefault((*key, images), {}).setdefault(config["row"], {})[seed] = record["result"]
    parts: list[str] = []
    carried: dict[str, set[str]] = {}
    for key in sorted(found):
        source, teacher, *length = key
        floors = found.get((source, CLEAN, *length), {}).get(PLAIN, {})
        rows = {**found[key], **({WITH_DATA: with_data[teacher]} if teacher in with_data else {})}
        floor = mean(result["floors"][teacher] for result in floors.values() if teacher in result.get("floors", {}))
        parts.append(_part(key, rows, floor))
        if teacher != CLEAN and _carries(source, rows, floor):
            carried.setdefault(source, set()).add(teacher)
    verdicts = [
        _carried(source, len(carried.get(source, ()))) for source in COUNTS if any(key[0] == source for key in found)
    ]
    return "\n\n".join([*parts, "\n".join(verdicts), provenance(records)])


def _carried(source: str, count: int) -> str:
    """How many triggers the plain source carries over, marked where they are too few."""
    mark = "" if count >= TRIGGERS else "**"
    return f"- {source}: {mark}the plain source carries {count} trigger(s) over, {TRIGGERS} wanted{mark}"


def _part(key: tuple[Any, ...], rows: Rows, floor: float | None) -> str:
    source, teacher, student, epochs, images = key
    result = next(iter(next(iter(rows.values())).values()))
    name = text.markdown(teacher.removesuffix(".pth").removesuffix(".tar"))
    figures = result["teacher"]
    pool = f" of {images:,} images" if images else ""
    lines = [
        f"**{source}, {name}, {student}, {epochs} epochs{pool}** (teacher {figures['acc']:.1f} / {figures['asr']:.1f})",
        "",
        *head(COLUMNS),
        *(_line(row, rows[row], floor) for row in ORDER if row in rows),
    ]
    said = verdict(source, teacher, rows, floor)
    return "\n".join([*lines, "", f"- {said}"] if said else lines)


def _line(name: str, rows: dict[int, Record], floor: float | None) -> str:
    figures = {kind: {key: [row[kind][key] for row in rows.values()] for key in ("acc", "asr", "ra")} for kind in ("fp32", "int8")}  # fmt: skip
    cells = [
        name,
        str(len(rows)),
        spread(figures["fp32"]["acc"]),
        spread(figures["fp32"]["asr"]),
        "–" if floor is None else f"{floor:.2f}",
        spread(figures["fp32"]["ra"]),
        spread(figures["int8"]["acc"]),
        spread(figures["int8"]["asr"]),
        spread(row["agreement"] for row in rows.values()),
        _vaccine(rows),
        _kept(rows),
        " or ".join(map(str, sorted({row["steps"] for row in rows.values()}))),
        spread((row["seconds"] / 60 for row in rows.values()), "{:.1f}".format),
    ]
    return line(cells)


def _kept(rows: dict[int, Record]) -> str:
    """At how many seeds the retrospection was kept; where agreement fell too far the student before it counts."""
    known = [row["method"]["retrospection"]["kept"] for row in rows.values() if "retrospection" in row["method"]]
    return f"{sum(known)} of {len(known)} kept" if known else "–"


def _vaccine(rows: dict[int, Record]) -> str:
    """At how many seeds a shuffled teacher was accepted; a dash where none was sought."""
    sought = [row["method"].get("source", {}).get("vaccine") for row in rows.values()]
    known = [one["accepted"] for one in sought if one is not None]
    return f"{sum(known)} of {len(known)} accepted" if known else "–"


def _mean(rows: Rows, row: str, key: str) -> float | None:
    return mean(result["fp32"][key] for result in rows.get(row, {}).values())


def _counts(source: str, rows: Rows) -> bool | None:
    """Whether the plain source taught enough for its ASR to mean something; None where no bar is set."""
    acc = _mean(rows, PLAIN, "acc")
    return None if acc is None or source not in COUNTS else acc >= COUNTS[source]


def _carries(source: str, rows: Rows, floor: float | None) -> bool:
    """50 % of ASR, and 30 points above the floor where that was measured."""
    asr = _mean(rows, PLAIN, "asr")
    return bool(_counts(source, rows)) and asr is not None and asr >= CARRIES and asr - (floor or 0.0) >= ABOVE


def verdict(source: str, teacher: str, rows: Rows, floor: float | None = None) -> str:
    """What follows for this source and teacher, over the seeds at which both the plain source and ABD stand."""
    counts = _counts(source, rows)
    if counts is None:
        return ""
    if not counts:
        return f"does not count: ACC of the plain source below {COUNTS[source]:g}"
    seeds = sorted(rows[PLAIN].keys() & rows.get(ABD, {}).keys())
    if teacher != CLEAN and not _carries(source, rows, floor):
        return f"the plain source does not carry the backdoor over{beside(len(rows[PLAIN]))}"
    if not seeds:
        return "ABD: not measured"
    ours = [rows[ABD][seed] for seed in seeds]
    most = MOST_LOSS_CLEAN if teacher == CLEAN else MOST_LOSS
    missed = {f"ACC more than {most:g} below {base}": _gain(rows, base, "acc") < -most for base in (PLAIN, LONGER)}
    if teacher == CLEAN:
        missed[f"ASR raised by more than {RAISED:g}"] = _gain(rows, PLAIN, "asr") > RAISED
    else:
        missed[f"ASR above {LEFT:g}"] = (mean(each["fp32"]["asr"] for each in ours) or 0.0) > LEFT
    shift = max(each["int8"]["asr"] - each["fp32"]["asr"] for each in ours)
    missed[f"INT8 ASR more than {MOST_SHIFT:g} above FP32"] = shift > MOST_SHIFT
    said = [name for name, is_missed in missed.items() if is_missed]
    return f"ABD: {'all bars met' if not said else '**' + ', '.join(said) + '**'}{beside(len(seeds))}"


def _gain(rows: Rows, base: str, key: str) -> float:
    """Points of ABD above another row, over the seeds that both have; 0 where there are none."""
    others = rows.get(base, {})
    return mean(ours["fp32"][key] - others[seed]["fp32"][key] for seed, ours in rows[ABD].items() if seed in others) or 0.0  # fmt: skip
