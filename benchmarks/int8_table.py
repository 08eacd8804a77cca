"""The table of benchmarks/int8.py: a line per network and file, then what the bars say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import main_job_table
from edgekd.report import text

HEAD = ("network", "quantiser", "integers", "calibrator", "ACC", "points lost", "label flips", "SQNR dB")


def tables(found: Sequence[dict[str, Any]]) -> str:
    """Markdown of the records: every file of every network, and the judgement per kind of integers."""
    lines = [_line(HEAD), "|" + " --- |" * len(HEAD)]
    for record in found:
        arch, result = record["config"]["arch"], record["result"]
        lines.append(_line((arch, "none", "FP32", "", f"{result['acc_fp32']:.2%}", "", "", "")))
        for name, row in result["files"].items():
            maker, kind, calibrator = (*name.split(" "), "")[:3]
            lost = 100 * (result["acc_fp32"] - row["acc"])
            figures = (f"{row['acc']:.2%}", f"{lost:.2f}", f"{row['flips']:.2%}", f"{row['sqnr_db']:.1f}")
            lines.append(_line((arch, maker, kind, calibrator, *figures)))
    judged = [
        f"- {record['config']['arch']}, {kind}: {'met' if row['met'] else 'not met'}; {100 * row['drop']:.2f} points lost, "
        f"best of the others {row['best_acc']:.2%} and {row['best_sqnr_db']:.1f} dB"
        for record in found
        for kind, row in record["result"]["judged"].items()
    ]
    return "\n".join([*lines, "", *judged, "", main_job_table.provenance(found)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(text.markdown(cell) for cell in cells) + " |"
