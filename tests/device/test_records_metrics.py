"""Records survive the trip through JSON; metrics agree with what one can count on ten labels."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import pytest

from edgekd_device import metrics, records
from edgekd_device.errors import UsageError
from edgekd_device.metrics import Rate
from edgekd_device.records import BundleManifest, DeviceReport, Gate, Latency, StageRow, TriggerScore

LABELS = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
SEEN = [0, 1, 1, 1, 2, 0, 3, 0, 0, 0]
ZEROS = [0] * 10
SCORE = TriggerScore("t", "known", Rate(3, 8), Rate(4, 8), Rate(1, 8), Rate(1, 8))
LATENCY = Latency(1, 700, 1.0, 1.5, 2.0, 1.1, 0.9, 3.0, (0.95, 1.05), (1.0, 1.1, 0.9), notes=("n",), lag1=0.1)


def test_rates_of_ten_labels():
    assert metrics.accuracy(SEEN, LABELS) == Rate(5, 10)
    assert metrics.attack_success(SEEN, LABELS, ZEROS) == Rate(4, 8)
    assert metrics.robust_accuracy(SEEN, LABELS, ZEROS) == Rate(4, 8)


def test_rate_of_nothing():
    assert math.isnan(Rate(0, 0).value)
    assert Rate(0, 0).interval() == (0.0, 1.0)


def test_difference_of_two_rates():
    low, high = metrics.difference_interval(Rate(56, 70), Rate(48, 80))
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=2e-4)  # Newcombe 1998, table II, method 10
    assert metrics.difference_interval(Rate(0, 0), Rate(1, 2)) == (-1.0, 1.0)


def test_defence_effectiveness_is_a_half_where_nothing_happened():
    assert metrics.defence_effectiveness(0.9, 1.0, 0.9, 1.0) == 0.5
    assert metrics.defence_effectiveness(0.9, 1.0, 0.9, 0.0) == 1.0
    assert metrics.defence_effectiveness(0.9, 0.0, 0.8, 0.5) == pytest.approx(0.45)


def test_nearest_rank_percentiles():
    ten = list(range(1, 11))
    assert [metrics.percentile(ten, p) for p in (0.5, 0.9, 0.99, 1.0)] == [5.0, 9.0, 10.0, 10.0]
    assert metrics.percentile([7.0], 0.5) == 7.0


def test_excess_is_above_the_floor():
    assert SCORE.excess == 0.25
    assert TriggerScore("t", "canary", Rate(3, 8), Rate(4, 8)).excess is None


def test_a_trigger_raises_a_rate_from_its_floor_or_from_what_it_was_without():
    assert SCORE.raised == SCORE.excess
    unfloored = TriggerScore("t", "canary", Rate(3, 8), Rate(4, 8), Rate(2, 8))
    assert unfloored.raised == 0.125
    assert dataclasses.replace(unfloored, untriggered=Rate(0, 0)).raised == 0.375
    assert dataclasses.replace(unfloored, untriggered=None).raised == 0.375


@pytest.mark.parametrize("score", [SCORE, TriggerScore("t", "inverted", Rate(3, 8), Rate(4, 8))])
def test_rows_survive_json(score):
    row = StageRow(
        "s", "stage", "torch", "fp32", "0", Rate(1, 2), (score,), Rate(0, 2), 10, 5, 6, LATENCY, notes=("a",)
    )
    report = DeviceReport("0", "smoke", False, ("why",), (row,), {"cpu": None}, {"open": 1.0}, ({"batch": 1.0},))
    assert DeviceReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    many = dataclasses.replace(LATENCY, batch=8)
    gates = (Gate("swap", "0 pages", "not measured", "why"),)
    full = dataclasses.replace(report, multistream=many, gates=gates, thermal={"max_c": 41.5}, raw_times={"file": "f"})
    assert DeviceReport.from_json(json.loads(json.dumps(full.to_json()))) == full
    empty = StageRow("s", "control", "torch", "fp32", "0")
    assert StageRow.from_json(json.loads(json.dumps(empty.to_json()))) == empty


def test_a_report_from_before_multistream_and_gates_is_read():
    value = DeviceReport("0", "standard", True, (), (), {}).to_json()
    for name in ("multistream", "thermal", "gates", "raw_times"):
        del value[name]
    report = DeviceReport.from_json(value)
    assert (report.multistream, report.thermal, report.gates, report.raw_times) == (None, None, (), None)


def test_a_gate_with_a_verdict_of_its_own_is_refused():
    value = DeviceReport("0", "standard", True, (), (), {}, gates=(Gate("swap", "0", "splendid", ""),)).to_json()
    with pytest.raises(UsageError, match="'splendid'"):
        DeviceReport.from_json(value)


@pytest.mark.parametrize("broken", [{"asr": None}, {"ra": None}, {"origin": "guess"}, {"origin": []}])
def test_a_score_without_its_parts(broken):
    with pytest.raises(UsageError, match=f"look at '{next(iter(broken))}'"):
        TriggerScore.from_json({**SCORE.to_json(), **broken})


def full_report() -> dict[str, Any]:
    score = TriggerScore("t", "known", Rate(3, 8), Rate(4, 8), Rate(1, 8), Rate(1, 8))
    row = StageRow("s", "stage", "torch", "fp32", "0", Rate(1, 2), (score,), Rate(0, 2), 10, 5, 6, LATENCY)
    queries = dataclasses.replace(LATENCY, batch=8)
    return DeviceReport(
        *("0", "standard", True, (), (row, row), {}, {"open": 1.0}, ({"batch": 1.0},), {"idle_w": 1.0}),
        multistream=queries,
        gates=(Gate("swap", "0 pages", "passed", "0"),),
        raw_times={"file": "f"},
    ).to_json()


HUGE = int("9" * 400)
MISSING = object()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("rows[1].latency.p50_ms", "abc"),
        ("rows[1].latency.p50_ms", None),
        ("rows[1].latency.p50_ms", True),
        ("rows[1].latency.p50_ms", -1.0),
        ("rows[1].latency.p50_ms", math.nan),
        ("rows[1].latency.p99_ms", math.inf),
        ("rows[1].latency.max_ms", HUGE),
        ("rows[1].latency.count", 0),
        ("rows[1].latency.count", 700.0),
        ("rows[1].latency.p50_interval_ms", [1.0]),
        ("rows[1].latency.block_p50_ms", [1.0, "2"]),
        ("rows[1].latency.notes", "n"),
        ("rows[1].latency.valid", "no"),
        ("rows[1].latency.mean_ms", MISSING),
        ("rows[1].acc", {"hits": 500, "total": 331}),
        ("rows[1].acc", {"hits": 0, "total": 0}),
        ("rows[1].acc", {"hits": -1, "total": 3}),
        ("rows[1].acc", {"hits": 1.5, "total": 3}),
        ("rows[1].acc", {"hits": "1", "total": 3}),
        ("rows[1].flips", {"hits": 1}),
        ("rows[1].flips", [1, 2]),
        ("rows[1].kind", "other"),
        ("rows[1].size_bytes", -1),
        ("rows[1].energy_mj", "much"),
        ("rows[1].stage", MISSING),
        ("rows[1].triggers", [1]),
        ("rows[1].triggers[0].asr", {"hits": 9, "total": 8}),
        ("rows[1].triggers[0].floor", {"hits": 0, "total": 0}),
        ("rows[1].triggers[0].trigger", 5),
        ("rows[1].latency", [1]),
        ("multistream.p99_bound_ms", -0.1),
        ("gates[0].verdict", "splendid"),
        ("gates[0].found", MISSING),
        ("rows", 5),
        ("invalid_reasons", "why"),
        ("environment", []),
        ("cold_start_ms", {"open": -1}),
        ("throughput", [{"batch": "1"}]),
        ("power", 5.0),
        ("raw_times", {"file": 1}),
        ("edgekd_version", None),
    ],
)
def test_a_field_that_cannot_be_is_named(place, value):
    report = json.loads(json.dumps(full_report()))
    *way, last = (int(part) if part.isdigit() else part for part in re.findall(r"\w+", place))
    inner = report
    for part in way:
        inner = inner[part]
    DeviceReport.from_json(report)
    inner.pop(last) if value is MISSING else inner.__setitem__(last, value)
    with pytest.raises(UsageError, match=re.escape(f"'{place}'")) as refusal:
        DeviceReport.from_json(report)
    assert len(str(refusal.value)) < 250


def test_what_nobody_wrote_is_refused():
    for value in ({**LATENCY.to_json(), "p42_ms": 1.0}, [], {1: 2}, 5):
        with pytest.raises(UsageError, match="does not hold what it should"):
            Latency.from_json(value)
    with pytest.raises(UsageError, match=r"\\x1b\[2J"):
        Rate.from_json({"hits": "\x1b[2J", "total": 1})
    assert Rate.from_json(None) is None
    assert Latency.from_json(None) is None


@pytest.mark.parametrize("value", [None, [], {}, {"schema": "1"}])
def test_no_record(value):
    with pytest.raises(UsageError, match="no schema number"):
        records.check_schema(value, "run")


def test_a_newer_record_is_refused():
    with pytest.raises(UsageError, match="Upgrade edgekd"):
        records.check_schema({"schema": records.SCHEMA + 1}, "run")


def test_a_manifest_that_is_none():
    with pytest.raises(UsageError, match="not one that edgekd wrote"):
        BundleManifest.from_json({"schema": 1})
