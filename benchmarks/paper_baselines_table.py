"""The usual methods at the size of their papers, beside their figures (method card kd_baselines, 3 and 8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, provenance, spread
from benchmarks.paired import Difference, paired, values
from edgekd.report import text
from edgekd.report.transferability import beside

Record = dict[str, Any]
TEACHER, KD = "teacher", "Hinton KD"
# row -> published figure and between what a mean of three seeds has to lie, in percent; overhaul's is from memory: no bar
PUBLISHED: dict[str, tuple[float, float, float] | None] = {
    TEACHER: (75.61, 75.11, 76.11),  # one seed
    "scratch": (73.26, 72.86, 73.66),
    KD: (74.92, 74.52, 75.32),
    "CRD": (75.48, 74.98, 75.98),
    "DKD": (76.24, 75.5, 76.3),  # two others trained it anew and had 75.15 and 75.5
    "ReviewKD": (76.12, 75.72, 76.52),
    "AT": (74.08, 73.68, 74.48),
    "SP": (73.83, 73.43, 74.23),
    "FitNets": (73.58, 73.18, 73.98),
    "NST": (73.68, 73.28, 74.08),
    "overhaul, paper": None,
}
DIFFERENT = (
    "AT, SP, FitNets and NST compare relu(BN(F)) of a group's sum F here, their published figures F itself: there a figure outside its "
    "bar may be due to that."
)
COLUMNS = ("row", "ACC %", "published", "bar", "met", "to Hinton KD", "hours")


def tables(records: Sequence[Record]) -> str:
    """A row per method over its seeds, in the order of the list above."""
    rows: dict[str, dict[int, Record]] = {}
    for record in records:
        rows.setdefault(record["config"]["row"], {})[record["config"]["seed"]] = record["result"]
    lines = head(COLUMNS)
    for name in filter(rows.__contains__, PUBLISHED):
        known, found = PUBLISHED[name], values(rows[name])
        gap = paired(found, values(rows.get(KD, {}))) if name not in (TEACHER, KD) else None
        figure, bar = ("–", "–") if known is None else (f"{known[0]:g}", f"{known[1]:g} to {known[2]:g}")
        shown = [text.markdown(name), spread(found.values()), figure, bar, _met(name, found, known), _gap(gap)]
        lines.append(line([*shown, spread((one["seconds"] / 3600 for one in rows[name].values()), "{:.1f}".format)]))
    return "\n".join([*lines, "", DIFFERENT, "", provenance(records)])


def _met(name: str, found: dict[int, float], known: tuple[float, float, float] | None) -> str:
    if known is None:
        return "–"
    inside = known[1] <= sum(found.values()) / len(found) <= known[2]
    return ("yes" if inside else "**no**") + ("" if name == TEACHER else beside(len(found)))


def _gap(found: Difference | None) -> str:
    return "–" if found is None else str(found)
