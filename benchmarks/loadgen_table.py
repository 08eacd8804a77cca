"""The table of benchmarks/loadgen.py: a line per network, then a sentence per missed bar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.main_job_table import head, line, provenance
from edgekd.report import text

Record = dict[str, Any]
JUDGED = ("p50", "p90")
COLUMNS = (
    "network",
    *(f"{name} ms {kind}" for name in (*JUDGED, "p99") for kind in ("ours", "LoadGen")),
    *(f"{name}, ours − LoadGen % (allowed)" for name in JUDGED),
    "met",
)


def tables(records: Sequence[Record]) -> str:
    """Markdown of the records; what a record misses is said below."""
    missed = [said for record in records for said in _missed(record)]
    parts = [*head(COLUMNS), *(line(_row(record)) for record in records), ""]
    return "\n".join([*parts, *(["Missed: " + "; ".join(missed) + ".", ""] if missed else []), provenance(records)])


def _row(record: Record) -> list[str]:
    result = record["result"]
    times = [text.figure(result["ms"][name][kind]) for name in (*JUDGED, "p99") for kind in ("ours", "loadgen")]
    shown = [f"{100 * result['difference'][name]:+.1f} ({100 * result['allowed'][name]:.1f})" for name in JUDGED]
    return [text.markdown(record["config"]["arch"]), *times, *shown, "yes" if result["passed"] else "**no**"]


def _missed(record: Record) -> Iterator[str]:
    result = record["result"]
    for name in JUDGED:
        apart, allowed = result["difference"][name], result["allowed"][name]
        if abs(apart) > allowed:
            side = "above" if apart > 0 else "below"
            yield (
                f"{name} of {text.markdown(record['config']['arch'])}, where ours is {100 * abs(apart):.1f} % {side} "
                f"LoadGen's and {100 * allowed:.1f} % is allowed"
            )
