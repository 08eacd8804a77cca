"""Trigger inversion as a table: the two smallest patches of each network, and whether the attacker's class stands out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, provenance
from edgekd.report import text

Record = dict[str, Any]
COLUMNS = ("network", "arch", "attacker's class", "smallest patch of class", "pixels", "next class's", "index", "critical", "stands out", "right", "minutes")  # fmt: skip


def table(records: Sequence[Record]) -> str:
    """A line per network, clean ones last; then finds and false alarms."""
    ordered = sorted(records, key=lambda one: (one["config"]["kind"] == "clean", one["config"]["network"]))
    lines = [*head(COLUMNS), *(_line(one["config"], one["result"]) for one in ordered)]
    counts = []
    for kind, said in (("backdoored", "backdoors found"), ("clean", "false alarms")):
        results = [one["result"] for one in ordered if one["config"]["kind"] == kind]
        judged = [
            one for one in results if one["stands_out"] is not None and (kind == "clean" or one["target"] is not None)
        ]
        hits = sum(one["stands_out"] and (kind == "clean" or _right(one)) for one in judged)
        counts.append(f"{hits} of {len(judged)} {said}")
    return "\n".join([*lines, "", f"{', '.join(counts)}.", "", provenance(records)])


def _right(result: dict[str, Any]) -> bool:
    return result["target"] is not None and result["smallest"] == result["target"]


def _line(config: dict[str, Any], result: dict[str, Any]) -> str:
    clean = config["kind"] == "clean"
    sizes = sorted(row["pixels"] for row in result["classes"] if row["pixels"] is not None)
    told = {True: "yes", False: "no", None: "not judged"}[result["stands_out"]]
    right = (not result["stands_out"]) if clean else bool(result["stands_out"]) and _right(result)
    return line(
        [
            text.markdown(config["network"].split(".")[0]),
            result["arch"],
            "clean" if clean else "one per class" if result["target"] is None else str(result["target"]),
            "none found" if result["smallest"] is None else str(result["smallest"]),
            *[*(f"{size:.1f}" for size in sizes), "–", "–"][:2],
            *("–" if result[key] is None else f"{result[key]:.1f}" for key in ("index", "critical")),
            told,
            "–"
            if result["stands_out"] is None or (not clean and result["target"] is None)
            else "yes"
            if right
            else "**no**",
            f"{result['seconds'] / 60:.1f}",
        ]
    )
