"""The judgements of loadgen.py on figures one can check by hand."""

from __future__ import annotations

import pytest

from benchmarks import loadgen

SUMMARY = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : SingleStream
Mode     : PerformanceOnly
90.0th percentile latency (ns) : 14013874
Result is : VALID
Early Stopping Result:
 * Early stopping 90.0th percentile estimate: 21702407
Min latency (ns)                : 1078409
50.00 percentile latency (ns)   : 2481260
90.00 percentile latency (ns)   : 14013874
99.00 percentile latency (ns)   : 21702407
99.90 percentile latency (ns)   : 21702407
"""


def test_loadgens_summary_is_read() -> None:
    assert loadgen.summary(SUMMARY) == {"p50": 2.48126, "p90": 14.013874, "p99": 21.702407}
    with pytest.raises(ValueError, match="calls its run invalid"):
        loadgen.summary(SUMMARY.replace(": VALID", ": INVALID"))


@pytest.mark.parametrize(
    ("ours", "spread", "passed"), [(1.019, 0.0, True), (1.021, 0.0, False), (1.04, 0.05, True), (0.97, 0.0, False)]
)
def test_the_bar_is_two_per_cent_or_loadgens_own_spread(ours: float, spread: float, passed: bool) -> None:
    theirs = [1 - spread / 2, 1.0, 1.0, 1.0, 1 + spread / 2]
    found = {
        "ours": [dict.fromkeys(loadgen.PERCENTILES, ours)] * 5,
        "loadgen": [dict.fromkeys(loadgen.PERCENTILES, value) for value in theirs],
    }
    judged = loadgen.judged(found)
    assert judged["passed"] is passed
    assert judged["difference"]["p50"] == pytest.approx(ours - 1)


def test_the_slowest_percent_is_reported_and_not_judged() -> None:
    block = {"p50": 1.0, "p90": 1.0, "p99": 1.0}
    judged = loadgen.judged({"ours": [{**block, "p99": 9.0}], "loadgen": [block]})
    assert judged["passed"] is True
    assert judged["ms"]["p99"] == {"ours": 9.0, "loadgen": 1.0}
