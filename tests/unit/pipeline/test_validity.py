"""Which of a device's own doubts take away which figures of the file that ships."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.pipeline.validity import UNSAID, Doubts, doubts, without
from edgekd.types import DeviceReport, Latency, Rate, StageRow
from edgekd_device.records import Gate

SHIPS = "model.u8s8.onnx"
HOT = Gate("hottest zone", "5 °C below", "failed", "cpu is at 99 °C")
UNSTEADY = "block medians differ by 9.0 %"


def row(stage: str = SHIPS, runtime: str = "onnxruntime", **timed: Any) -> StageRow:
    latency = Latency(1, 10, 2.0, 3.0, None, 2.0, 1.0, 4.0, **timed)
    return StageRow(stage, "stage", runtime, "int8", "0" * 64, Rate(9, 10), flips=Rate(1, 10), latency=latency)


def report(*reasons: str, shipped: StageRow | None = None, **more: Any) -> DeviceReport:
    fields: dict[str, Any] = {
        "valid": not reasons,
        "environment": {"warnings": ["the machine was busy before"]},
        **more,
    }
    rows = (row("model.onnx"), shipped or row())
    return DeviceReport("0" * 64, "standard", invalid_reasons=reasons, rows=rows, **fields)


@pytest.mark.parametrize(
    ("found", "answers", "times"),
    [
        (report(), (), ()),
        (report(f"{SHIPS}: logits are not finite"), ("logits are not finite",), ("logits are not finite",)),
        (report("model.onnx: logits are not finite"), (), ()),
        (report(f"{SHIPS}: MultiStream: {UNSTEADY}"), (), (f"MultiStream: {UNSTEADY}",)),
        (report(f"{SHIPS}: GPU alone: {UNSTEADY}"), (), (f"GPU alone: {UNSTEADY}",)),
        (report("hottest zone: cpu is at 99 °C", gates=(HOT,)), (), ("hottest zone: cpu is at 99 °C",)),
        (report("hottest zone: cpu is at 99 °C"), *2 * [("hottest zone: cpu is at 99 °C",)]),  # no such gate: unknown
        (
            report("this Jetson does not say its power mode", environment={"l4t": "36.4", "load": "?"}),
            (),
            ("this Jetson does not say its power mode",),
        ),
        (report(valid=False), (UNSAID,), (UNSAID,)),
    ],
)
def test_reasons_count_where_they_belong(found: DeviceReport, answers: tuple[str, ...], times: tuple[str, ...]) -> None:
    assert doubts(found, row()) == Doubts(answers, times)


def test_an_unsteady_latency_leaves_the_acc_alone() -> None:
    unsteady = row(valid=False, notes=(UNSTEADY, "smoke level"))
    assert doubts(report(f"{SHIPS}: {UNSTEADY}", shipped=unsteady), unsteady) == Doubts((), (UNSTEADY,))
    assert doubts(None, unsteady) == Doubts((), (UNSTEADY,))
    assert doubts(report(), row(valid=False)).times == ("the device says that its latency is not valid",)


def test_a_report_doubts_only_what_it_measured() -> None:
    unwell = report(f"{SHIPS}: logits are not finite")
    assert doubts(unwell, row(runtime="tensorrt")) == Doubts()
    assert doubts(unwell, None) == Doubts()
    assert doubts(None, row()) == Doubts()


def test_a_note_of_the_level_is_no_doubt() -> None:
    """A smoke run on a busy machine warns; nothing of it is void."""
    assert doubts(report(), row(level="smoke", notes=("smoke level: for orientation",))) == Doubts()


def test_without_leaves_what_is_not_doubted() -> None:
    assert without(row(), Doubts()) == row()
    assert without(row(), Doubts((), ("x",))).latency is None
    assert without(row(), Doubts((), ("x",))).acc == Rate(9, 10)
    bare = without(row(), Doubts(("x",), ("x",)))
    assert (bare.acc, bare.flips, bare.triggers, bare.latency) == (None, None, (), None)
