"""The judgements of loadgen.py on figures one can check by hand, and the tables of what a board would be held against."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from provenance import ABOUT

from benchmarks import loadgen, loadgen_table

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


class Generator:
    """Stands in for LoadGen, which a default test does not download: it asks thrice and writes a summary."""

    TestScenario, TestMode = SimpleNamespace(SingleStream=1), SimpleNamespace(PerformanceOnly=1)
    TestSettings = LogSettings = staticmethod(lambda: SimpleNamespace(log_output=SimpleNamespace()))
    ConstructQSL = DestroyQSL = DestroySUT = QuerySamplesComplete = QuerySampleResponse = staticmethod(lambda *_: None)
    ConstructSUT = staticmethod(lambda issue, _: issue)

    @staticmethod
    def StartTestWithLogSettings(issue: Any, library: Any, settings: Any, logs: Any) -> None:
        issue([SimpleNamespace(id=k, index=k) for k in range(3)])
        (Path(logs.log_output.outdir) / loadgen.SUMMARY).write_text(SUMMARY)


def test_no_garbage_is_collected_in_a_block_of_either(tmp_path: Path) -> None:
    seen: list[bool] = []
    runner: Any = SimpleNamespace(infer=lambda image: seen.append(gc.isenabled()))
    inputs = [np.zeros(1)] * 3
    assert gc.isenabled()
    assert loadgen.theirs(Generator, runner, inputs, 0.01, tmp_path)["p50"] == 2.48126
    assert gc.isenabled()
    assert seen == [False] * 3
    loadgen.ours(runner, inputs, 0.001)
    assert gc.isenabled()
    assert not any(seen)


def test_a_bar_that_is_missed_is_said_below_the_table() -> None:
    def record(p90: float) -> dict[str, Any]:
        theirs = {"p50": 1.0, "p90": 1.0, "p99": 1.0}
        found = {"ours": [{**theirs, "p90": p90}], "loadgen": [theirs]}
        return {**ABOUT, "config": {"arch": "resnet8"}, "result": loadgen.judged(found)}

    good, bad = loadgen_table.tables([record(1.01)]), loadgen_table.tables([record(0.94)])
    assert "| +0.0 (2.0) | +1.0 (2.0) | yes |" in good
    assert "Missed" not in good
    assert "| +0.0 (2.0) | -6.0 (2.0) | **no** |" in bad
    assert "Missed: p90 of resnet8, where ours is 6.0 % below LoadGen's and 2.0 % is allowed." in bad
