"""Distillation without data as tables: one per source and teacher, every row beside the plain source, and the bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, mean, provenance, spread
from edgekd.report import text
from edgekd.report.transferability import beside

Record = dict[str, Any]
Rows = dict[str, dict[int, Record]]  # row -> seed -> result
PLAIN, ABD, WITH_DATA, CLEAN = "plain", "+ABD", "KD on clean data", "clean"
ORDER = (PLAIN, "plain, longer", "+SV", "+SR", ABD, WITH_DATA)
COUNTS = {"patches": 70.0, "zskt": 50.0}  # ACC of the plain source from which on a teacher's rows count
CARRIES, LEFT, MOST_LOSS, MOST_LOSS_CLEAN = 50.0, 15.0, 6.0, 2.0  # percent of ASR; points of ACC
TRIGGERS = 2  # at least so many must be carried over by the plain source
COLUMNS = ("row", "ACC %", "ASR %", "RA %", "INT8 ACC %", "INT8 ASR %", "agreement %", "vaccine", "steps", "minutes")


def tables(records: Sequence[Record]) -> str:
    """Mean [lowest to highest] over seeds. Agreement: with the teacher, on patches that nothing was trained on."""
    found: dict[tuple[str, str, int], Rows] = {}
    for record in records:
        config = record["config"]
        # KD on clean data has a length of its own: it stands in every table of its teacher and source
        epochs = 0 if config["row"] == WITH_DATA else config["epochs"]
        rows = found.setdefault((config["source"], config["teacher"], epochs), {})
        rows.setdefault(config["row"], {})[config["seed"]] = record["result"]
    beside_them = {key[:2]: rows for key, rows in found.items() if not key[2]}
    parts: list[str] = []
    carried: dict[str, set[str]] = {}
    for source, teacher, epochs in sorted(key for key in found if key[2]):
        rows = {**found[source, teacher, epochs], **beside_them.get((source, teacher), {})}
        parts.append(_part(source, teacher, epochs, rows))
        if teacher != CLEAN and _carries(source, rows):
            carried.setdefault(source, set()).add(teacher)
    verdicts = [
        _carried(source, len(carried.get(source, ()))) for source in COUNTS if any(key[0] == source for key in found)
    ]
    return "\n\n".join([*parts, "\n".join(verdicts), provenance(records)])


def _carried(source: str, count: int) -> str:
    """How many triggers the plain source carries over, marked where they are too few."""
    mark = "" if count >= TRIGGERS else "**"
    return f"- {source}: {mark}the plain source carries {count} trigger(s) over, {TRIGGERS} wanted{mark}"


def _part(source: str, teacher: str, epochs: int, rows: Rows) -> str:
    result = next(iter(next(iter(rows.values())).values()))
    name = text.markdown(teacher.removesuffix(".pth").removesuffix(".tar"))
    figures = result["teacher"]
    lines = [
        f"**{source}, {name}, {epochs} epochs** (teacher {figures['acc']:.1f} / {figures['asr']:.1f})",
        "",
        *head(COLUMNS),
        *(_line(row, rows[row]) for row in ORDER if row in rows),
    ]
    said = verdict(source, teacher, rows)
    return "\n".join([*lines, "", f"- {said}"] if said else lines)


def _line(name: str, rows: dict[int, Record]) -> str:
    cells = [name]
    for kind, keys in (("fp32", ("acc", "asr", "ra")), ("int8", ("acc", "asr"))):
        cells += [spread(row[kind][key] for row in rows.values()) for key in keys]
    cells.append(spread(row["agreement"] for row in rows.values()))
    steps = sorted({row["steps"] for row in rows.values()})
    cells += [
        _vaccine(rows),
        " or ".join(map(str, steps)),
        spread((row["seconds"] / 60 for row in rows.values()), "{:.1f}".format),
    ]
    return line(cells)


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


def _carries(source: str, rows: Rows) -> bool:
    asr = _mean(rows, PLAIN, "asr")
    return bool(_counts(source, rows)) and asr is not None and asr >= CARRIES


def verdict(source: str, teacher: str, rows: Rows) -> str:
    """What follows for this source and teacher, over the seeds at which both the plain source and ABD stand."""
    counts = _counts(source, rows)
    if counts is None:
        return ""
    if not counts:
        return f"does not count: ACC of the plain source below {COUNTS[source]:g}"
    seeds = sorted(rows[PLAIN].keys() & rows.get(ABD, {}).keys())
    if teacher != CLEAN and not _carries(source, rows):
        return f"the plain source does not carry the backdoor over{beside(len(rows[PLAIN]))}"
    if not seeds:
        return "ABD: not measured"
    pairs = [(rows[PLAIN][seed]["fp32"], rows[ABD][seed]["fp32"]) for seed in seeds]
    loss = sum(plain["acc"] - ours["acc"] for plain, ours in pairs) / len(pairs)
    if teacher == CLEAN:
        missed = [f"ACC more than {MOST_LOSS_CLEAN:g} below the plain source"] if loss > MOST_LOSS_CLEAN else []
        missed += ["ASR raised"] if any(ours["asr"] > plain["asr"] for plain, ours in pairs) else []
    else:
        left = sum(ours["asr"] for _, ours in pairs) / len(pairs)
        missed = [f"ASR above {LEFT:g}"] if left > LEFT else []
        missed += [f"ACC more than {MOST_LOSS:g} below the plain source"] if loss > MOST_LOSS else []
    return f"ABD: {'all bars met' if not missed else '**' + ', '.join(missed) + '**'}{beside(len(seeds))}"
