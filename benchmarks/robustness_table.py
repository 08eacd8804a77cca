"""Records of kills and of bad inputs as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, provenance
from edgekd.report import text

Record = dict[str, Any]
AREAS = ("checkpoint", "data", "trigger", "config", "bundle", "flipped bit", "engine")


def lines(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    return head(columns) + [line([text.markdown(str(cell)) for cell in row]) for row in rows]


def bad_inputs(records: Sequence[Record]) -> str:
    """One row per area: cases, the exit codes they met, how many were met in full."""
    found = sorted(records, key=lambda record: AREAS.index(record["config"]["area"]))
    rows = []
    for record in found:
        codes = Counter(row["met_code"] for row in record["result"]["rows"])
        shown = ", ".join(f"{count} x {code}" for code, count in sorted(codes.items()))
        result = record["result"]
        rows.append((record["config"]["area"], result["cases"], shown, f"{result['met']} of {result['cases']}"))
    return "\n".join([*lines(("area", "cases", "exit codes", "met"), rows), "", provenance(records)])


def kills(records: Sequence[Record]) -> str:
    """One row per kill: where, how much was kept, from which epoch training went on, what came out."""
    rows = []
    for row in (row for record in records for row in record["result"]["rows"]):
        resumed = "–" if row.get("resumed_at") is None else f"after epoch {row['resumed_at']}"
        outcome = "same bytes" if row["met"] else "NOT MET: " + (", ".join(row.get("different", ())) or "never reached")
        where = row["hit"] if row["stage"] == "random" else row["stage"]
        rows.append((where, row["point"], row.get("stages_kept", ""), resumed, outcome))
    columns = ("killed in", "at", "stages kept", "training went on", "outcome")
    return "\n".join([*lines(columns, rows), "", provenance(records)])
