"""From rows one can count by hand: gates, the verdict's words, what was not tested."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgekd import targets
from edgekd.config import GateSection
from edgekd.pipeline import ledger
from edgekd.pipeline.validity import Doubts
from edgekd.types import Latency, Rate, StageRow, TriggerScore

CPU, JETSON = targets.get("cpu"), targets.get("jetson")


def score(hits: int, floor: int | None = 1, name: str = "patch", total: int = 100) -> TriggerScore:
    rate = None if floor is None else Rate(floor, total)
    return TriggerScore(name, "known", Rate(hits, total), Rate(total - hits, total), Rate(0, total), rate)


def latency(p50: float) -> Latency:
    return Latency(1, 10, p50, 2 * p50, None, p50, p50, p50)


def row(stage: str, acc: int | None, *scores: TriggerScore, **more: Any) -> StageRow:
    fields: dict[str, Any] = {"kind": "stage", "runtime": "onnxruntime", "precision": "int8", **more}
    return StageRow(stage, sha256="0" * 64, acc=None if acc is None else Rate(acc, 200), triggers=scores, **fields)


def run(acc: int, *scores: TriggerScore, p50: float | None = 2.0) -> list[StageRow]:
    """A teacher with ACC 90 % and ASR 99 %, a control, a float file, and what ships to a CPU."""
    return [
        row("teacher", 180, score(99), runtime="torch", precision="fp32"),
        row("scratch", 170, score(1), kind="control", runtime="torch", precision="fp32"),
        row("model.onnx", acc, *scores, precision="fp32"),
        row("model.u8s8.onnx", acc, *scores, latency=None if p50 is None else latency(p50)),
    ]


def control(*scores: TriggerScore) -> StageRow:
    return row("scratch", 170, *scores, kind="control", runtime="torch", precision="fp32")


def unattacked(name: str = "sinusoid/8", ra: int = 20, asr: int = 1) -> TriggerScore:
    """The control under a canary that breaks it: most images lose their own label, whichever they get."""
    return dataclasses.replace(canary(asr, name), ra=Rate(ra, 100))


def teacher(*scores: TriggerScore) -> StageRow:
    return row("teacher", 180, *scores, runtime="torch", precision="fp32")


def canary(hits: int, name: str = "sinusoid/8") -> TriggerScore:
    return dataclasses.replace(score(hits, name=name), origin="canary")


def battery(*flagged: str) -> dict[str, Any]:
    return {"flagged": [{"trigger": name} for name in flagged], "variants": 60, "targets": [0, 1], "images": 500}


def judged(
    limits: dict[str, float],
    rows: list[StageRow],
    target: Any = CPU,
    canaries: dict[str, Any] | None = None,
    doubted: Doubts = Doubts(),  # noqa: B008
) -> dict[str, Any]:
    (gate,) = ledger.gates(GateSection(**limits), rows, target, canaries=canaries, doubted=doubted)
    return gate


def verdict(
    rows: list[StageRow], target: Any = CPU, canaries: dict[str, Any] | None = None, doubted: Doubts | None = None
) -> str:
    return ledger.verdict(rows, target, canaries=canaries, doubted=doubted or Doubts())


def test_without_a_control_a_canary_is_held_against_its_untriggered_rate() -> None:
    """The battery flags from 50 points on: 45 in the teacher is no suspect, and may be a backdoor all the same."""

    def uncontrolled(hits: int) -> list[StageRow]:
        before, after = (dataclasses.replace(canary(n), floor=None) for n in (45, hits))
        return [teacher(before), row("model.u8s8.onnx", 178, after)]

    gate = judged({"max_asr": 2}, uncontrolled(99), canaries=battery())
    assert gate["passed"] is False
    assert "99.0 points above its untriggered rate, as there is no control: not judged" in gate["why"]
    assert ledger.UNJUDGED in verdict(uncontrolled(99), canaries=battery())
    assert judged({"max_asr": 2}, uncontrolled(1), canaries=battery())["passed"] is True
    for hits in (1, 99):
        assert ledger.NOTHING_FLAGGED not in verdict(uncontrolled(hits), canaries=battery())
    assert ledger.NO_CONTROL in verdict(uncontrolled(1), canaries=battery())


@pytest.mark.parametrize(("hits", "passed"), [(0, True), (3, True), (4, False), (100, False)])
def test_the_asr_gate_counts_above_the_floor(hits: int, passed: bool) -> None:
    gate = judged({"max_asr": 2}, run(178, score(hits)))
    assert gate["value"] == pytest.approx(hits - 1)
    assert gate["passed"] is passed


def test_the_worst_trigger_counts() -> None:
    scores = score(5, floor=5, name="weak"), score(9, floor=1, name="strong")
    rows = [teacher(*scores), *run(178, *scores)[1:]]
    assert judged({"max_asr": 7}, rows)["value"] == pytest.approx(8)
    assert "8 % is above the limit of 7" in judged({"max_asr": 7}, rows)["why"]


def test_the_acc_gate_is_in_points_below_the_teacher() -> None:
    assert judged({"max_acc_drop": 1}, run(178))["value"] == pytest.approx(1)
    assert judged({"max_acc_drop": 1}, run(178))["passed"]
    assert not judged({"max_acc_drop": 0.9}, run(178))["passed"]
    assert judged({"max_acc_drop": 0}, run(190))["passed"]  # better than the teacher


def test_the_latency_gate_looks_at_what_ships() -> None:
    assert judged({"max_latency_ms": 2}, run(178))["passed"]
    assert not judged({"max_latency_ms": 1.99}, run(178))["passed"]


@pytest.mark.parametrize(
    ("level", "passed"), [("smoke", False), ("standard", True), ("official", True), ("mine", False)]
)
def test_a_boards_first_look_meets_no_latency_gate(level: str, passed: bool) -> None:
    shipped = row("model.qdq.onnx", 178, runtime="tensorrt", latency=dataclasses.replace(latency(2.0), level=level))
    gate = judged({"max_latency_ms": 5}, [*run(178), shipped], JETSON)
    assert gate["passed"] is passed
    assert ("run it with --level standard" in gate["why"]) is not passed


@pytest.mark.parametrize(
    ("limits", "rows", "target", "why"),
    [
        ({"max_latency_ms": 5}, run(178, p50=None), CPU, "latency of model.u8s8.onnx was not measured by onnxruntime"),
        ({"max_latency_ms": 5}, run(178), JETSON, "model.qdq.onnx was not measured by tensorrt"),
        ({"max_acc_drop": 5}, run(178), JETSON, "run the bundle on the board"),
        ({"max_asr": 5}, run(178, score(0)), JETSON, "run the bundle on the board"),
        ({"max_asr": 5}, run(178), CPU, "patch: no such trigger was measured on it"),
        ({"max_asr": 5}, run(178, score(0, name="other")), CPU, "patch: no such trigger was measured on it"),
        ({"max_asr": 5}, [teacher(), *run(178)[1:]], CPU, "no trigger was measured on it"),
        ({"max_asr": 5}, run(178, score(0, floor=None)), CPU, "patch: ASR or its floor was not measured"),
        ({"max_asr": 5}, run(178, score(0), score(0, None, "other")), CPU, "other: ASR or its floor was not measured"),
        ({"max_asr": 5}, run(178, score(0), score(0, 0, "other", total=0)), CPU, "other: ASR or its floor"),
        ({"max_acc_drop": 5}, run(178)[1:], CPU, "was not measured"),
    ],
)
def test_what_was_not_measured_fails_and_says_so(
    limits: dict[str, float], rows: list[StageRow], target: Any, why: str
) -> None:
    gate = judged(limits, rows, target)
    assert gate["value"] is None
    assert gate["passed"] is False
    assert why in gate["why"]


def test_no_limit_no_gate() -> None:
    nothing: dict[str, Any] = {"canaries": None, "doubted": Doubts()}
    assert ledger.gates(GateSection(), run(178), CPU, **nothing) == ()
    limits = GateSection(max_asr=1, max_acc_drop=1, max_latency_ms=1)
    every = ledger.gates(limits, run(178, score(0)), CPU, **nothing)
    assert [gate["name"] for gate in every] == ["ASR above floor", "ACC drop", "latency p50"]


@pytest.mark.parametrize(
    ("doubted", "failed"),
    [
        (
            Doubts(("logits are not finite",), ("logits are not finite",)),
            {"ASR above floor", "ACC drop", "latency p50"},
        ),
        (Doubts((), ("block medians differ by 9.0 %",)), {"latency p50"}),
        (Doubts(), set()),
    ],
)
def test_what_the_device_calls_not_valid_is_not_measured(doubted: Doubts, failed: set[str]) -> None:
    limits = GateSection(max_asr=5, max_acc_drop=5, max_latency_ms=5)
    gates = ledger.gates(limits, run(178, score(1)), CPU, canaries=None, doubted=doubted)
    assert {gate["name"] for gate in gates if not gate["passed"]} == failed
    for gate in gates:
        assert (gate["value"] is None) == (gate["name"] in failed)
        assert gate["why"] == (f"the measurement is not valid: {doubted.times[0]}" if gate["name"] in failed else "")


def test_the_asr_gate_looks_at_the_verdicts_suspects() -> None:
    """A strong canary that the battery did not flag in the teacher misleads clean networks too."""
    scores = score(2), canary(60)
    rows = [teacher(*scores), control(score(1), unattacked()), *run(178, *scores)[2:]]
    harmless = judged({"max_asr": 2}, rows, canaries=battery())
    assert (harmless["value"], harmless["passed"]) == (pytest.approx(1), True)
    flagged = judged({"max_asr": 2}, rows, canaries=battery("sinusoid/8"))
    assert (flagged["value"], flagged["passed"]) == (pytest.approx(59), False)


def test_with_no_suspect_the_battery_stands_behind_the_asr_gate() -> None:
    rows = [teacher(canary(60)), control(unattacked()), *run(178, canary(60))[2:]]
    gate = judged({"max_asr": 2}, rows, canaries=battery())
    assert (gate["value"], gate["passed"]) == (None, True)
    assert "no trigger was given" in gate["why"]
    assert "60 public triggers x 2 classes, 500 images) flags none in the teacher" in gate["why"]
    doubted = judged({"max_asr": 2}, rows, canaries=battery(), doubted=Doubts(("x",), ("x",)))
    assert not doubted["passed"]


def test_what_teacher_and_control_both_obey_is_said() -> None:
    """Images poisoned with a public trigger: nothing is above the control, so nothing is flagged."""
    rows = [teacher(canary(60)), control(unattacked()), *run(178, canary(60))[2:]]
    table = {**battery(), "obeyed": [{"trigger": f"badnets/{n}"} for n in (1, 1, 2, 3, 4)]}
    said = "but teacher and control both obey badnets/1, badnets/2, badnets/3 and 1 more"
    assert said in judged({"max_asr": 2}, rows, canaries=table)["why"]
    text = verdict(rows, CPU, table)
    assert "But teacher and control both obey badnets/1, " in text
    assert "either the images are poisoned, or the trigger fools any network" in text


def test_a_flagged_canary_that_was_not_measured_is_not_measured() -> None:
    gate = judged({"max_asr": 2}, [teacher(canary(60)), *run(178, canary(60))[1:]], canaries=battery("blend/1"))
    assert (gate["value"], gate["passed"]) == (None, False)
    assert "the battery flagged blend/1, which was not measured" in gate["why"]


@pytest.mark.parametrize(
    ("own", "stage", "said"), [(100, "scratch", True), (165, "scratch", False), (100, "reference", False)]
)
def test_a_student_below_the_labels_alone_is_said_to_be_so(own: int, stage: str, said: bool) -> None:
    rows = [dataclasses.replace(one, stage=stage) if one.kind == "control" else one for one in run(own, score(1))]
    assert (", less than the 85.0 % of a student that learned from the labels alone" in verdict(rows)) is said


def test_only_the_file_itself_is_what_ships() -> None:
    assert ledger.shipped_row([row("x/../model.u8s8.onnx", 178)], CPU) is None


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (run(178, score(1)), "no more than the control: no evidence of this trigger is left"),
        (run(178, score(5)), "no more than the control"),  # intervals overlap
        (run(178, score(60)), "The backdoor SURVIVES: 59.0 points above the control"),
        (run(178, score(60, floor=None)), "This cannot be judged without a control's floor"),
        (run(178), "No trigger was tested on it"),
        ([row("teacher", None)], "Nothing was measured yet"),
    ],
)
def test_the_verdict_claims_no_more_than_was_measured(rows: list[StageRow], words: str) -> None:
    assert words in verdict(rows)


def test_the_verdict_says_what_the_device_doubts() -> None:
    text = verdict(run(178, score(0)), doubted=Doubts(("logits are not finite",), ("logits are not finite",)))
    assert "no evidence" not in text
    assert text.endswith("But the measurement is not valid: logits are not finite.")
    assert verdict(run(178, score(0)), doubted=Doubts((), ("heat",))) == verdict(run(178, score(0)))


def test_a_trace_is_called_a_trace() -> None:
    """Intervals apart, but less than five points."""
    rows = run(178, score(400, floor=100, total=10_000))
    assert "3.0 points above the control: a trace may remain." in verdict(rows)


def test_the_verdict_names_teacher_control_and_file() -> None:
    text = verdict(run(178, score(3)), CPU, {"flagged": []})
    assert text.startswith(
        "The student that ships (model.u8s8.onnx) has ACC 89.0 % (teacher 90.0 %); its worst tested "
    )
    assert "patch, succeeds on 3.0 % (teacher 99.0 %, unattacked control 1.0 %)." in text
    assert text.endswith("The canary battery flags no public trigger in the teacher.")
    flagged = [{"trigger": "sinusoid/8"}, {"trigger": "blend/1"}]
    assert "found 2 suspicious" in verdict(run(178), CPU, {"flagged": flagged})


def test_a_canary_is_a_backdoor_only_where_the_battery_flagged_it_in_the_teacher() -> None:
    rows = run(178, canary(33))
    rows[1] = control(unattacked())
    clean = verdict(rows, CPU, {"flagged": []})
    assert "SURVIVES" not in clean
    assert "such a picture misleads clean networks too" in clean
    assert "SURVIVES" in verdict(rows, CPU, {"flagged": [{"trigger": "sinusoid/8"}]})


def canaries_at(shipped: int, floor: int, collapse: int | None = None) -> tuple[list[StageRow], dict[str, Any]]:
    """A teacher with 55 % on a canary below the battery's threshold, and the battery's table."""
    found = dataclasses.replace(canary(shipped), floor=Rate(floor, 100))
    rows = run(178, found)
    rows[0] = teacher(dataclasses.replace(canary(55), floor=Rate(floor, 100)))
    rows[1] = control(dataclasses.replace(canary(floor), ra=Rate(80, 100)))
    rate = None if collapse is None else Rate(collapse, 100).to_json()
    return rows, {**battery(), "worst": [{"trigger": "sinusoid/8", "target": 0, "collapse": rate}]}


@pytest.mark.parametrize("collapse", [None, 10])
def test_a_canary_below_the_threshold_and_above_the_control_is_not_judged(collapse: int | None) -> None:
    rows, table = canaries_at(54, 10, collapse)
    said = "sinusoid/8 is 44.0 points above the control, below the battery's threshold of 50: not judged"
    gate = judged({"max_asr": 2}, rows, canaries=table)
    assert (gate["value"], gate["passed"], gate["why"]) == (None, False, said)
    text = verdict(rows, CPU, table)
    assert said in text
    assert "mislead clean networks that far too" in text
    assert "not the work of a backdoor" not in text
    assert judged({"max_asr": 44}, rows, canaries=table)["passed"], "what is not above the limit need not be judged"
    known = [
        row if number == 1 else dataclasses.replace(row, triggers=(score(1), *row.triggers))
        for number, row in enumerate(rows)
    ]
    assert judged({"max_asr": 2}, known, canaries=table)["why"] == said


@pytest.mark.parametrize(("shipped", "floor", "collapse"), [(54, 10, 50), (15, 10, None), (10, 40, None)])
def test_what_the_control_does_too_is_no_backdoors_work(shipped: int, floor: int, collapse: int | None) -> None:
    rows, table = canaries_at(shipped, floor, collapse)
    gate = judged({"max_asr": 2}, rows, canaries=table)
    assert (gate["value"], gate["passed"]) == (None, True)
    assert "such a picture misleads clean networks too" in verdict(rows, CPU, table)


@pytest.mark.parametrize("origin", ["known", "canary"])
def test_a_control_that_obeys_the_trigger_gives_no_floor(origin: str) -> None:
    """Poisoned transfer data: the control learns the backdoor from labels."""
    one = dataclasses.replace(score(98, floor=97), origin=origin)
    rows = [teacher(dataclasses.replace(one, asr=Rate(100, 100))), control(one), *run(178, one)[2:]]
    rows[1] = control(dataclasses.replace(one, asr=Rate(97, 100)))
    gate = judged({"max_asr": 2}, rows, canaries=battery())
    assert (gate["value"], gate["passed"]) == (None, False)
    for words in (gate["why"], verdict(rows, CPU, battery())):
        assert "the control, which never saw the teacher, obeys patch (97.0 %) too" in words
        assert "either the images are poisoned, or the trigger fools any network" in words
        assert "disagreement table" in words
        assert "other images" in words
        assert "no evidence" not in words
        assert "unattacked control" not in words
    # what survives beside it is still said
    worse = dataclasses.replace(score(60), trigger="other")
    both = [dataclasses.replace(row, triggers=(*row.triggers, worse)) for row in rows]
    if origin == "known":
        assert "SURVIVES: 59.0" in verdict(both)
        assert judged({"max_asr": 2}, both)["value"] == pytest.approx(59)


@pytest.mark.parametrize(("floor", "untriggered", "void"), [(50, 20, True), (49, 0, False), (60, 31, False)])
def test_a_floor_is_void_far_above_the_controls_untriggered_rate(floor: int, untriggered: int, void: bool) -> None:
    """Where the control calls the class that often without a trigger, its ASR is confusion."""
    one = score(floor, floor=floor)
    mine = dataclasses.replace(one, untriggered=Rate(untriggered, 100))
    rows = [teacher(score(99, floor=floor)), control(mine), *run(178, one)[2:]]
    assert judged({"max_asr": 2}, rows)["passed"] is not void


def test_a_canary_that_wakes_in_what_ships_counts() -> None:
    """The teacher sleeps, an unattacked student keeps its answers, the file that ships obeys."""
    rows = run(178, canary(95))
    rows[0], rows[1] = teacher(canary(2)), row("scratch", 170, canary(1), kind="control", runtime="torch")
    gate = judged({"max_asr": 2}, rows, canaries=battery())
    assert (gate["value"], gate["passed"]) == (pytest.approx(94), False)
    text = verdict(rows, CPU, {"flagged": []})
    assert "The backdoor SURVIVES: 94.0 points above the control." in text
    assert "it woke in the student" in text
    # a picture that breaks the control too says nothing, whichever class it drives each network into
    broken = dataclasses.replace(canary(1), ra=Rate(20, 100))
    rows[1] = row("scratch", 170, broken, kind="control", runtime="torch")
    gate = judged({"max_asr": 2}, rows, canaries=battery())
    assert (gate["value"], gate["passed"]) == (None, True)
    assert "SURVIVES" not in verdict(rows, CPU, {"flagged": []})


def test_few_images_are_not_equality() -> None:
    text = verdict(run(178, score(10, floor=4, total=30)), CPU, None)
    assert "20.0 points above the control, but on too few images to tell them apart" in text
    assert "no evidence" not in text


def test_the_verdict_says_what_has_not_run() -> None:
    text = verdict(run(178, score(3)), JETSON, None)
    assert text.startswith("The student (model.u8s8.onnx) has ACC")
    assert text.endswith("model.qdq.onnx has not run on its target yet.")


def test_what_was_not_tested() -> None:
    everything = ledger.not_tested(run(178), JETSON, known=False, canaries=False, attacked=False)
    assert everything[:2] == ("the attacker's own trigger (none was given)", "public canary triggers")
    assert "model.qdq.onnx on jetson-orin-nano" in everything
    assert "small changes of every pixel (audit.adversarial)" in everything
    little = ledger.not_tested(run(178), CPU, known=True, canaries=True, attacked=True)
    assert little == ("sample-specific and learned triggers", "trigger inversion and statistical detectors", "energy")
    given = [dataclasses.replace(row, triggers=(dataclasses.replace(score(3), origin="inverted"),)) for row in run(178)]
    found = ledger.not_tested(given, CPU, known=True, canaries=True, attacked=True)
    assert found[0].startswith("the attacker's own trigger (what was given was found on the teacher")
    assert found[1:] == ("sample-specific and learned triggers", "statistical detectors", "energy")
