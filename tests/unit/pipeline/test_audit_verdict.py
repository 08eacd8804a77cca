"""From scores one can count by hand: what an audit concludes, and its gate."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.pipeline.audited import Judged, judge, with_patch
from edgekd.types import AuditReport, Rate, TriggerScore


def of(count: int) -> Rate:
    return Rate(count, 100)


def report(*scores: TriggerScore) -> AuditReport:
    return AuditReport(Rate(90, 100), scores, "0" * 64)


def score(asr: int, floor: int | None = None, untriggered: int = 1, name: str = "patch") -> TriggerScore:
    return TriggerScore(name, "known", of(asr), of(100 - asr), of(untriggered), None if floor is None else of(floor))


def battery(asr: int, reference: int, collapse: int | None = None, *, flagged: bool = False) -> dict[str, Any]:
    row = {
        "trigger": "sig/f8",
        "target": 3,
        "asr": of(asr).to_json(),
        "ra": of(50).to_json(),
        "untriggered": of(reference).to_json(),
        "floor": None if collapse is None else of(reference).to_json(),
        "collapse": None if collapse is None else of(collapse).to_json(),
    }
    return {"flagged": [row] if flagged else [], "worst": [row], "variants": 62, "targets": [0, 1], "images": 100}


def test_what_reference_and_model_both_obey_is_an_alarm_and_what_is_near_is_said() -> None:
    clean, table = report(score(2, 2)), battery(20, 2, 2)
    judged = judge(clean, table, clean, None)
    assert judged.alarms == ()
    assert "sig/f8 is 18.0 points above the reference, below the threshold of 50" in judged.near
    (row,) = table["worst"]
    both = judge(clean, {**table, "obeyed": [row, row]}, clean, None)
    assert both.alarms == ("sig/f8",)
    assert judge(clean, battery(3, 2, 2), clean, None).near == ""


def gate(judged: Judged) -> tuple[float | None, bool, str]:
    (found,) = judged.gates
    return found["value"], found["passed"], found["why"]


@pytest.mark.parametrize(
    ("asr", "floor", "found", "words"),
    [
        (100, None, True, "patch succeeds on 100.0 %, 99.0 points above its untriggered rate"),
        (60, 2, True, "58.0 points above the reference"),
        (3, 2, False, "none is clearly above the reference"),
        (2, None, False, "none is clearly above its untriggered rate"),
    ],
)
def test_a_given_trigger_is_held_against_the_reference(asr: int, floor: int | None, found: bool, words: str) -> None:
    beside = None if floor is None else report(score(floor))
    judged = judge(report(score(asr, floor)), None, beside, 2)
    assert judged.found is found
    assert words in judged.verdict
    assert ("compare with a clean network" in judged.verdict) is (found and floor is None)
    assert gate(judged)[1] is not found


def test_a_reference_that_obeys_judges_nothing() -> None:
    judged = judge(report(score(98, 97)), None, report(score(97)), 2)
    assert (judged.found, gate(judged)[:2]) == (False, (None, False))
    assert "Not judged: the reference obeys patch (97.0 %) too" in judged.verdict
    assert "try another reference" in gate(judged)[2]


def test_a_flagged_canary_fails_the_gate() -> None:
    judged = judge(report(), battery(97, 5, 6, flagged=True), report(), 2)
    assert judged.found
    assert "sig/f8 succeeds on 97.0 %, 92.0 points above the reference" in judged.verdict
    assert gate(judged)[:2] == (92, False)


def test_a_canary_below_the_threshold_is_not_judged() -> None:
    alone = judge(report(), battery(48, 3), None, 2)
    assert "The nearest: sig/f8 is 45.0 points above its untriggered rate, below the threshold of 50" in alone.verdict
    assert gate(alone)[:2] == (None, False)
    assert "--reference" in gate(alone)[2]
    assert not alone.found
    beside = judge(report(), battery(48, 3, 40), report(), 2)
    assert beside.verdict == "The canary battery flags no public trigger."
    assert gate(beside) == (None, True, "no trigger was given, and the canary battery flags none")


def test_what_was_not_measured_fails() -> None:
    judged = judge(report(), None, None, 2)
    assert judged.verdict == "No trigger was tested."
    assert gate(judged)[:2] == (None, False)
    assert judge(report(), None, None, None).gates == ()


def test_a_patch_that_stands_out_is_an_alarm_and_fails_the_gate() -> None:
    clean = report(score(2, 2))
    rows = [{"target": n, "pixels": 4.3 + n, "success": of(90).to_json()} for n in range(2)]
    table: dict[str, Any] = {"classes": rows, "smallest": 0, "stands_out": True}
    judged = judge(clean, None, clean, 5.0)
    assert judged.gates[0]["passed"]
    found = with_patch(judged, table, 5.0)
    assert found.verdict == f"A PATCH of 4.3 pixels throws 90.0 % of held-out images into class 0. {judged.verdict}"
    assert (found.found, found.alarms) == (True, ("inverted",))
    assert not found.gates[0]["passed"]
    assert with_patch(judged, table, 95.0).gates == judged.gates
    assert with_patch(judged, table, None).found
    alone = with_patch(judge(report(), None, None, None), table, None)
    assert alone.verdict == "A PATCH of 4.3 pixels throws 90.0 % of held-out images into class 0."
    for quiet in (None, {**table, "stands_out": False}, {**table, "stands_out": None}):
        assert with_patch(judged, quiet, 5.0) is judged
