"""Every method beside Hinton KD and beside no teacher: paired differences with their interval, and no order where it holds 0."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks.main_job_table import head, line, provenance, spread
from edgekd.report import text
from edgekd.report.transferability import beside

Record = dict[str, Any]
Rows = dict[str, dict[int, Record]]  # row -> seed -> result
SCRATCH, KD = "scratch", "Hinton KD"
# Student's t at 97.5 %, by degrees of freedom
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
COLUMNS = ("row", "ACC %", "to Hinton KD", "to scratch", "cost of a step", "minutes")
# The more usual ones first; by what they reach would be an order, which is not claimed.
ORDER = (
    *(
        SCRATCH,
        "scratch, twice",
        KD,
        "KD, tau 1",
        "KD, asked once",
        "FitNets",
        "AT",
        "NST",
        "SP",
        "CRD",
        "DKD",
        "DIST",
        "ReviewKD",
    ),
    *(
        "overhaul",
        "DiSK",
        "DiSK, not censored",
        "CMKD",
        "Comparative KD",
        "Comparative KD, all pairs",
        "Comparative KD and KD",
    ),
    *("KDIGA", "IGDM"),
)
READING = (
    "Differences in points of ACC, of the same seeds, with a 95 % interval (Student's t). **Bold**: the interval leaves out 0; "
    "between all others no order is claimed. Cost of a step: relative to Hinton KD's, timed in turns."
)


class Difference(NamedTuple):
    """Mean paired difference in points; half: of its 95 % interval, None where there are too few seeds for one."""

    mean: float
    half: float | None
    seeds: int

    @property
    def apart(self) -> bool:
        return self.half is not None and abs(self.mean) > self.half

    def __str__(self) -> str:
        if self.half is None:
            return f"{self.mean:+.2f}{beside(self.seeds)}"
        shown = f"{self.mean:+.2f} [{self.mean - self.half:+.2f} to {self.mean + self.half:+.2f}]"
        return (f"**{shown}**" if self.apart else shown) + beside(self.seeds)


def paired(row: dict[int, Record], other: dict[int, Record], key: str = "acc") -> Difference | None:
    """Over the seeds that both have; None without any."""
    gaps = [row[seed][key] - other[seed][key] for seed in sorted(row) if seed in other]
    if not gaps:
        return None
    half = T[len(gaps) - 1] * statistics.stdev(gaps) / len(gaps) ** 0.5 if 1 < len(gaps) <= len(T) + 1 else None
    return Difference(statistics.fmean(gaps), half, len(gaps))


def tables(records: Sequence[Record]) -> str:
    """One table per scenario, rows in the same order in each."""
    found: dict[tuple[str, str, str, int], Rows] = {}
    for record in records:
        config = record["config"]
        key = (config["scenario"], config["teacher"], config["student"], config["images"])
        found.setdefault(key, {}).setdefault(config["row"], {})[config["seed"]] = record["result"]
    parts = [_part(*key, found[key]) for key in sorted(found)]
    return "\n\n".join([*parts, READING + _count(found.values()), provenance(records)])


def _count(parts: Iterable[Rows]) -> str:
    """How many intervals the tables have; nothing where there are none."""
    made = [paired(rows[name], rows.get(other, {})) for rows in parts for other in (KD, SCRATCH) for name in rows if name != other]  # fmt: skip
    count = sum(one is not None and one.half is not None for one in made)
    if not count:
        return ""
    return f" The tables have {count} such intervals, not corrected for their number: one in twenty leaves out 0 by chance."


def _part(scenario: str, teacher: str, student: str, images: int, rows: Rows) -> str:
    result = next(iter(next(iter(rows.values())).values()))
    return "\n".join(
        [
            f"**{text.markdown(scenario)}**: {text.markdown(teacher)} (ACC {result['teacher_acc']:.1f} %) to {student}, "
            f"{images:,} images",
            "",
            *head(COLUMNS),
            *(_line(name, rows) for name in sorted(rows, key=ORDER.index)),
        ]
    )


def _line(name: str, rows: Rows) -> str:
    results = list(rows[name].values())
    return line(
        [
            text.markdown(name),
            spread(one["acc"] for one in results),
            *(_beside(name, other, rows) for other in (KD, SCRATCH)),
            spread(one["cost"]["ratio"] for one in results),
            spread((one["seconds"] / 60 for one in results), "{:.1f}".format),
        ]
    )


def _beside(name: str, other: str, rows: Rows) -> str:
    if name == other:
        return "–"
    found = paired(rows[name], rows.get(other, {}))
    return text.NOT_MEASURED if found is None else str(found)
