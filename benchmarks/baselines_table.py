"""Every method beside Hinton KD and no teacher: paired differences with intervals, no order where one contains 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.main_job_table import head, line, provenance, spread
from benchmarks.paired import Difference, acc, crossed, paired, values
from edgekd.report import text

Record = dict[str, Any]
Rows = dict[str, dict[int, Record]]  # row -> seed -> result
SCRATCH, KD, COST = "scratch", "Hinton KD", "cost"
# scenario -> the method it is made for or tests, and what else that method has to beat there
MADE_FOR = {
    "small student": ("DiSK", ("DiSK, not censored", "KD, tau 1", "scratch, twice")),
    "few calls": ("Comparative KD, ours", ("KD, asked once", "Comparative KD, all pairs")),
    "few calls, 250": ("Comparative KD, ours", ("KD, asked once",)),
    "cifar10": ("CMKD, ours", ("DIST", "CMKD, constant")),
    "cifar100": ("CMKD, ours", ("DIST",)),
}
# The more usual ones first; by what they reach would be an order, which is not claimed.
ORDER = (
    *(SCRATCH, "scratch, twice", KD, "KD, tau 1", "KD, asked once", "FitNets", "AT", "NST", "SP", "CRD", "DKD", "DIST"),
    *("ReviewKD", "overhaul, ours", "DiSK", "DiSK, not censored", "CMKD, ours", "CMKD, constant"),
    *("Comparative KD, ours", "Comparative KD, all pairs", "Comparative KD and KD", "Comparative KD, paper's labels"),
    *("KDIGA, ours", "IGDM, ours"),
)
TIMES = ("row", "ms a step", "Hinton KD's", "ratio", "ratio to Hinton KD in fp32")
READING = (
    "Differences in points of ACC, of the same seeds, with a 95 % interval (Student's t, the spread that of a table's rows beyond what "
    "row and seed explain): for this pair and these images. **Bold**: the interval leaves out 0; between all others no order is claimed. "
    "Differences to one row share its noise, so bolds come together. CMKD is claimed only at 0.3 points above DIST on both pairs and above its "
    "own constant weights. Minutes: beside other work."
)


def tables(records: Sequence[Record]) -> str:
    """One table per scenario, rows in the same order in each; then the cost of a step."""
    found: dict[tuple[str, str, str, int], Rows] = {}
    for record in records:
        config = record["config"]
        if config["scenario"] != COST:
            key = (config["scenario"], config["teacher"], config["student"], config["images"])
            found.setdefault(key, {}).setdefault(config["row"], {})[config["seed"]] = record["result"]
    parts = [_part(*key, found[key]) for key in sorted(found)]
    timed = [record for record in records if record["config"]["scenario"] == COST]
    count = sum(_intervals(key[0], rows) for key, rows in found.items())
    reading = READING + (f" The tables have {count} such intervals, not corrected for their number: one in twenty leaves out 0 by chance." if count else "")  # fmt: skip
    return "\n\n".join([*parts, *([_times(timed)] if timed else []), reading, provenance(records)])


def _part(scenario: str, teacher: str, student: str, images: int, rows: Rows) -> str:
    result = next(iter(next(iter(rows.values())).values()))
    names = sorted(rows, key=ORDER.index)
    differences = {other: _differences(other, rows) for other in (KD, SCRATCH)}
    calls, helper = (
        [name for name in names if any(key in one.get("report", {}) for one in rows[name].values())]
        for key in ("teacher_calls", "helper")
    )
    shown = {
        "row": [text.markdown(name) for name in names],
        "ACC %": [acc(rows[name]) for name in names],
        **{f"to {other}": [_shown(name, other, differences[other]) for name in names] for other in differences},
        **({"teacher calls": [_calls(rows[name]) if name in calls else "–" for name in names]} if calls else {}),
        **(
            {"helper's correlation": [_helper(rows[name]) if name in helper else "–" for name in names]}
            if helper
            else {}
        ),
        "minutes": [
            spread((m / 60 for m in values(rows[name], "seconds").values()), "{:.1f}".format) for name in names
        ],
    }
    title = (
        f"**{text.markdown(scenario)}**: {text.markdown(teacher)} (ACC {result['teacher_acc']:.1f} %) to {student}, "
        f"{images:,} images"
    )
    made = "\n".join(
        [title, "", *head(list(shown)), *(line(list(cells)) for cells in zip(*shown.values(), strict=True))]
    )
    return "\n\n".join([made, *_made_for(scenario, rows)])


def _differences(other: str, rows: Rows) -> dict[str, Difference | None]:
    """Of every other row to one, their spread in common."""
    figures = {name: values(row) for name, row in rows.items()}
    common, reference = crossed(figures.values()), figures.get(other, {})
    return {name: paired(row, reference, common) for name, row in figures.items() if name != other}


def _made_for(scenario: str, rows: Rows) -> list[str]:
    """What the scenario's own method adds to each of its further controls."""
    method, others = MADE_FOR.get(scenario, ("", ()))
    found = [(other, _differences(other, rows).get(method)) for other in others if other in rows]
    said = [f"to {text.markdown(other)} {difference}" for other, difference in found if difference is not None]
    return [f"{method}: {'; '.join(said)}."] if said else []


def _intervals(scenario: str, rows: Rows) -> int:
    """How many a scenario shows."""
    method, others = MADE_FOR.get(scenario, ("", ()))
    found = [one for other in (KD, SCRATCH) if other in rows for one in _differences(other, rows).values()]
    found += [_differences(other, rows).get(method) for other in others if other in rows]
    return sum(one is not None and one.half is not None for one in found)


def _shown(name: str, other: str, differences: dict[str, Difference | None]) -> str:
    if name == other:
        return "–"
    return text.NOT_MEASURED if differences[name] is None else str(differences[name])


def _calls(row: dict[int, Record]) -> str:
    return ", ".join(dict.fromkeys(f"{one['report']['teacher_calls']:,}" for one in _told(row, "teacher_calls")))


def _helper(row: dict[int, Record]) -> str:
    return spread(one["report"]["helper"]["correlation"] for one in _told(row, "helper"))


def _told(row: dict[int, Record], key: str) -> Iterable[Record]:
    return (one for one in row.values() if key in one.get("report", {}))


def _times(records: Sequence[Record]) -> str:
    config = records[0]["config"]
    title = f"**Cost of a step**: {text.markdown(config['teacher'])} to {config['student']}, {config['batch_size']} images a step"
    ordered = sorted(records, key=lambda record: ORDER.index(record["config"]["row"]))
    return "\n".join(
        [title, "", *head(TIMES), *(_time(record["config"]["row"], record["result"]) for record in ordered)]
    )


def _time(name: str, result: Record) -> str:
    ms = result["ms"]
    like = f"{ms['step'] / ms['kd_fp32']:.2f}" if "kd_fp32" in ms else "–"
    return line([text.markdown(name), f"{ms['step']:.1f}", f"{ms['kd']:.1f}", f"{ms['step'] / ms['kd']:.2f}", like])
