"""What a device report says beside its rows, on the terminal and in the report's facts."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from edgekd.report import device, markdown_page, tables
from edgekd.report.commands import device_table
from edgekd.types import DeviceReport, Latency
from edgekd_device.records import Gate

QUERIES = Latency(8, 662, 3.25, 3.5, 4.0, 3.3, 3.0, 5.0, p99_bound_ms=4.75)
REPORT = DeviceReport(
    "9" * 64,
    "standard",
    False,
    ("swap: 3 pages moved",),
    (),
    {"machine": "x86_64", "warnings": []},
    multistream=QUERIES,
    thermal={"soak": None, "blocks": [], "max_c": 61.5},
    gates=(
        Gate("swap", "0 pages", "failed", "3 pages moved"),
        Gate("throttling", "none", "not measured", "no [counter] can be read"),
    ),
    raw_times={"file": "device-report.times.npz", "sha256": "1" * 64},
)
LINES = {
    "MultiStream(8)": "p99 at most 4.75 ms (99 % confidence), p50 3.25 ms, 662 queries",
    "hottest zone": "61.5 °C",
    "gate, swap": "failed: 3 pages moved",
    "gate, throttling": "not measured: no [counter] can be read",
}


def test_lines_of_a_full_report():
    assert device.lines(REPORT.to_json()) == LINES
    few = dataclasses.replace(REPORT, multistream=dataclasses.replace(QUERIES, p99_bound_ms=None), thermal={})
    assert device.lines(few.to_json())["MultiStream(8)"].startswith("too few queries for p99, p50 3.25 ms")
    assert device.lines(few.to_json())["hottest zone"] == "not measured"


def test_a_smoke_report_has_no_such_line():
    assert device.lines(DeviceReport("0", "smoke", True, (), (), {}).to_json()) == {}


@pytest.mark.parametrize("value", [5, "x", [], [5], {"name": 5}])
def test_a_strangers_report_is_no_error(value):
    assert isinstance(device.facts({"gates": value, "multistream": value, "thermal": value}), dict)


def test_the_record_shows_them_among_its_facts(make_record):
    record = make_record(device_report=REPORT.to_json())
    found = dict(dict(tables.origins(record))["Device run"])
    assert LINES.items() <= found.items()
    assert (found["level"], found["raw_times.file"]) == ("standard", "device-report.times.npz")
    assert not any(name.startswith(("multistream", "thermal", "gates")) for name in found)
    assert "MultiStream(8): p99 at most 4.75 ms" in markdown_page.markdown(record)


def test_the_terminal_shows_them_under_the_table():
    console = Console(file=io.StringIO(), width=120)
    console.print(device_table(REPORT))
    shown = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "MultiStream(8): p99 at most 4.75 ms (99 % confidence)" in shown
    assert "gate, swap: failed: 3 pages moved" in shown
    assert "no [counter] can be read" in shown
    assert "level standard, NOT VALID; manifest" in shown
