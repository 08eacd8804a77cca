"""What a device report says beside its rows: MultiStream, heat soak, validity gates; each as one line of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import text

SAID_ELSEWHERE = ("rows", "environment", "schema", "multistream", "gates", "thermal")


def lines(report: Mapping[str, Any]) -> dict[str, str]:
    """Name -> text, of a report's JSON, which may be anybody's; what an older report does not hold is left out."""
    found = dict(_multistream(report.get("multistream")))
    thermal = report.get("thermal")
    if isinstance(thermal, Mapping):
        hottest = thermal.get("max_c")
        found["hottest zone"] = text.NOT_MEASURED if hottest is None else f"{text.figure(hottest)} °C"
    gates = report.get("gates")
    for gate in gates if isinstance(gates, list | tuple) else ():
        if isinstance(gate, Mapping):
            name, verdict, reading = (text.clean(gate.get(key, "")) for key in ("name", "verdict", "found"))
            found[f"gate, {name}"] = f"{verdict}: {reading}"
    return found


def _multistream(value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        bound, middle = value.get("p99_bound_ms"), value.get("p50_ms")
        # the early-stopping bound, which is what MLPerf calls the 99th percentile of MultiStream
        slow = "too few queries for p99" if bound is None else f"p99 at most {text.figure(bound)} ms (99 % confidence)"
        yield (
            f"MultiStream({text.figure(value.get('batch'))})",
            f"{slow}, p50 {text.figure(middle)} ms, {text.figure(value.get('count'))} queries",
        )


def facts(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report without its rows and its environment, ready for a list of facts."""
    plain = {k: v for k, v in report.items() if k not in SAID_ELSEWHERE and v not in (None, {}, [])}
    return {**plain, **lines(report)}
