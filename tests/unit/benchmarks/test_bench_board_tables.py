"""The judgements of int8.py and loadgen.py on figures one can check by hand, and their tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import int8, int8_table, loadgen, quantisers
from benchmarks.grid import provenance

LABELS = np.array([0, 1, 1, 0])
EXACT = np.array([[3.0, 0.0], [0.0, 3.0], [0.0, 3.0], [0.0, 3.0]])


def test_a_file_is_measured_against_labels_and_against_the_exact_logits() -> None:
    rough = EXACT.copy()
    rough[1] = [0.3, 0.0]
    found = int8.measured(rough, EXACT, LABELS)
    assert (found["acc"], found["flips"]) == (0.5, 0.25)
    # 36 over 0.09 + 9
    assert found["sqnr_db"] == pytest.approx(10 * np.log10(36 / 9.09))


def files(acc: float, sqnr: float) -> dict[str, dict[str, float]]:
    row = {"acc": acc, "flips": 0.01, "sqnr_db": sqnr}
    names = [f"ours {kind} {int8.DEFAULT}" for kind in ("s8", "u8s8")]
    rival = {"acc": 0.9, "flips": 0.01, "sqnr_db": 35.0}
    rivals = ("onnxruntime s8 max", "modelopt s8 max", "onnxruntime u8s8 max")
    return {**dict.fromkeys(names, row), **dict.fromkeys(rivals, rival)}


@pytest.mark.parametrize(
    ("acc", "sqnr", "met"),
    [(0.9, 35, True), (0.899, 34, True), (0.8989, 35, False), (0.9, 33.9, False), (0.95, 50, True)],
)
def test_the_bars_are_a_tenth_of_a_point_and_a_decibel(acc: float, sqnr: float, met: bool) -> None:
    assert int8.verdict(files(acc, sqnr), 0.9 if acc < 0.95 else 0.951)["met"] is met


def test_half_a_point_of_accuracy_may_be_lost() -> None:
    assert int8.verdict(files(0.9, 35), 0.9049)["met"] is True
    assert int8.verdict(files(0.9, 35), 0.9051)["met"] is False


def test_every_file_of_every_network_has_a_line() -> None:
    found = {**files(0.9, 35), "ours fp16": {"acc": 0.904, "flips": 0.0, "sqnr_db": 60.0}}
    result = {"acc_fp32": 0.904, "files": found, **int8.verdict(found, 0.904)}
    record: dict[str, Any] = {"config": {"arch": "resnet8"}, "result": result, **provenance()}
    record["hardware"]["gpu"] = None
    table = int8_table.tables([record])
    assert "| resnet8 | none | FP32 |  | 90.40% |" in table
    assert "| resnet8 | ours | fp16 |  | 90.40% | 0.00 | 0.00% | 60.0 |" in table
    assert "| resnet8 | modelopt | s8 | max | 90.00% | 0.40 | 1.00% | 35.0 |" in table
    assert "- resnet8, s8: met; 0.40 points lost, best of the others 90.00% and 35.0 dB" in table


def test_every_flavour_calibrator_and_rival_has_a_cell() -> None:
    names = list(int8._makers(None, None, None, None))  # type: ignore[arg-type]
    assert len(names) == len(set(names)) == 1 + 3 * 4 + 2 * len(quantisers.METHODS) + 2


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
