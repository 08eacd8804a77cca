"""The table of benchmarks/engines.py: a line per engine, the host's figures of the same file in brackets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.main_job_table import head, line, provenance
from edgekd.report import text

Record = dict[str, Any]
COLUMNS = (
    *("network", "level", "TensorRT", "file", "typing", "ACC % (host)", "ASR % (host)", "labels as the host's %"),
    *("p50 ms", "p99 ms", "GPU alone p50 ms", "met"),
)


def tables(records: Sequence[Record]) -> str:
    """Markdown of the records; why a report is not valid is said below."""
    rows = [row for record in records for row in _rows(record)]
    doubts = [
        f"- {_network(record)}, {record['config']['level']}, not valid: {text.markdown(why)}"
        for record in records
        for why in record["result"]["invalid_reasons"]
    ]
    return "\n".join([*head(COLUMNS), *map(line, rows), "", *doubts, *([""] if doubts else []), provenance(records)])


def _rows(record: Record) -> Iterator[list[str]]:
    config, result = record["config"], record["result"]
    for name, file in result["files"].items():
        times = (("e2e", "p50_ms"), ("e2e", "p99_ms"), ("gpu", "p50_ms"))
        yield [
            _network(record),
            config["level"],
            text.markdown(result["tensorrt"] or text.NOT_MEASURED),
            name,
            text.markdown((file["engine"] or {}).get("typing", "")),
            _both(file["acc"]),
            "; ".join(map(_both, file["asr"].values())) or "–",
            _percent(file["agreement"]),
            *(text.figure((file["ms"][kind] or {}).get(key)) for kind, key in times),
            "yes" if file["passed"] and result["valid"] else "**no**",
        ]


def _network(record: Record) -> str:
    return text.markdown(record["config"]["network"].split(".")[0])


def _both(pair: dict[str, Any]) -> str:
    return f"{_percent(pair['engine'])} ({_percent(pair['host'])})"


def _percent(rate: dict[str, int] | None) -> str:
    return text.NOT_MEASURED if not rate or not rate["total"] else f"{100 * rate['hits'] / rate['total']:.2f}"
