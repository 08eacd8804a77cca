"""Whether plain distillation carries the backdoor over: the rule at its edges, and what every rendering says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.cli.compress import show
from edgekd.report import html, markdown, transferability
from edgekd.types import Rate, RunRecord, TriggerScore

MakeRecord = Callable[..., RunRecord]
CONFIG = {"distill": {"method": "robustkd"}}


def changed(record: RunRecord, stage: str, *scores: TriggerScore) -> tuple[object, ...]:
    """The record's rows with other scores in one of them."""
    return tuple(dataclasses.replace(row, triggers=scores) if row.stage == stage else row for row in record.rows)


def score(asr: float, floor: float | None, name: str = "grid 3x3", origin: str = "known") -> TriggerScore:
    below = None if floor is None else Rate(round(10 * floor), 1000)
    return TriggerScore(name, origin, Rate(round(10 * asr), 1000), Rate(500, 1000), floor=below)


@pytest.mark.parametrize(
    ("asr", "excess", "carries"),
    [
        (50.0, 30.0, True),
        (49.9, 49.0, False),
        (90.0, 29.9, False),
        (None, 40.0, None),
        (90.0, None, None),
        (float("nan"), 40.0, None),
    ],
)
def test_the_rule(asr: float | None, excess: float | None, carries: bool | None) -> None:
    assert transferability.transferable(asr, excess) is carries


def test_few_seeds_stand_beside() -> None:
    assert [transferability.beside(n) for n in (1, 2, 3)] == [" (1 seed)", " (2 seeds)", ""]
    assert [transferability.verdict(True, n) for n in (1, 3)] == ["above the bar (1 seed)", "TRANSFERABLE"]
    assert [transferability.verdict(False, n) for n in (2, 3)] == ["below the bar (2 seeds)", "NOT TRANSFERABLE"]


def test_every_control_has_its_figures_and_its_verdict(make_record: MakeRecord) -> None:
    record = make_record(config=CONFIG)
    kd, overhaul = transferability.table(record).rows
    assert [cell.text for cell in kd] == ["kd", "grid 3x3", "90.22 %", "+88.27", "0.941", "above the bar (1 seed)"]
    assert [cell.text for cell in overhaul][2:] == ["82.22 %", "+80.27", "0.900", "above the bar (1 seed)"]
    assert transferability.sentence(record) == ""
    assert transferability.line(record) == (
        "Plain distillation: kd above the bar (1 seed), ASR 90.22 %, +88.27 points above the floor; "
        "overhaul above the bar (1 seed), ASR 82.22 %, +80.27 points above the floor."
    )


def test_a_base_that_loses_the_backdoor_by_itself_takes_the_merit(make_record: MakeRecord) -> None:
    record = make_record(config=CONFIG, rows=changed(make_record(), "overhaul", score(12, 2)))
    assert transferability.table(record).rows[1][-1].text == "below the bar (1 seed)"
    meaning = "Below the bar on overhaul, the base of robustkd (grid 3x3): a low ASR of the student is then not due to"
    for said in (transferability.line(record), html(record), markdown(record)):
        assert meaning in said
    # on the other kind it says nothing of the base
    record = make_record(config=CONFIG, rows=changed(make_record(), "kd", score(12, 2)))
    assert "below the bar (1 seed)" in html(record)
    assert "not due to" not in html(record)


@pytest.mark.parametrize("distill", [{"method": name, "base": "logits"} for name in ("robustkd", "robustkd-plus")])
def test_on_the_logits_base_hinton_kd_decides(make_record: MakeRecord, distill: dict[str, str]) -> None:
    lost = {"config": {"distill": distill}, "rows": changed(make_record(), "kd", score(12, 2))}
    assert f"Below the bar on kd, the base of {distill['method']}" in transferability.sentence(make_record(**lost))
    kept = {"config": {"distill": distill}, "rows": changed(make_record(), "overhaul", score(12, 2))}
    assert transferability.sentence(make_record(**kept)) == ""


def test_on_both_bases_either_may_carry_it(make_record: MakeRecord) -> None:
    config = {"distill": {"method": "robustkd-plus", "base": "both"}}
    one = changed(make_record(), "kd", score(12, 2))
    assert transferability.sentence(make_record(config=config, rows=one)) == ""
    none = changed(make_record(rows=one), "overhaul", score(12, 2))
    said = transferability.sentence(make_record(config=config, rows=none))
    assert "Below the bar on kd and overhaul, the base of robustkd-plus" in said
    features = {"distill": {"method": "robustkd-plus", "base": "features"}}
    assert transferability.sentence(make_record(config=features, rows=one)) == ""


def test_the_student_of_a_repaired_teacher_is_no_plain_distillation(make_record: MakeRecord) -> None:
    rows = tuple(row for row in make_record().rows if row.stage not in ("kd", "overhaul"))
    record = make_record(config={"distill": {"method": "kd"}, "repair": {"method": "gate"}}, rows=rows)
    assert [row[-1].text for row in transferability.table(record).rows] == ["not measured", "not measured"]
    assert "whether a low ASR of the student is due to the repair stays open" in transferability.sentence(record)


@pytest.mark.parametrize("scores", [(), (score(90, None),)])
def test_what_was_not_measured_is_no_verdict(make_record: MakeRecord, scores: tuple[TriggerScore, ...]) -> None:
    record = make_record(config=CONFIG, rows=changed(make_record(), "overhaul", *scores))
    assert transferability.table(record).rows[1][-1].text == "not measured"
    assert "overhaul not measured. The base of robustkd, overhaul, was not measured" in transferability.line(record)


def test_a_control_that_was_not_trained_is_not_measured(make_record: MakeRecord) -> None:
    rows = tuple(row for row in make_record().rows if row.stage not in ("kd", "overhaul"))
    record = make_record(config=CONFIG, rows=rows)
    assert [row[-1].text for row in transferability.table(record).rows] == ["not measured", "not measured"]
    assert "stays open" in markdown(record)
    # a run whose method is that plain distillation has measured it with its student
    plain = make_record(config={"distill": {"method": "kd"}}, rows=rows)
    assert [row[-1].text for row in transferability.table(plain).rows] == ["below the bar (1 seed)", "not measured"]
    assert transferability.sentence(plain) == ""


def test_canaries_have_no_verdict(make_record: MakeRecord) -> None:
    rows = tuple(
        dataclasses.replace(row, triggers=(score(90, 2, origin="canary"),)) for row in make_record(config=CONFIG).rows
    )
    record = make_record(config=CONFIG, rows=rows)
    assert transferability.table(record).rows == ()
    assert transferability.line(record) == ""
    assert transferability.NO_TRIGGER in html(record)
    assert transferability.NO_TRIGGER in markdown(record)


def test_every_known_trigger_is_named(make_record: MakeRecord) -> None:
    rows = changed(make_record(), "overhaul", score(90, 2), score(5, 2, name="sine"))
    record = make_record(config={"distill": "what?"}, rows=rows)
    assert [row[1].text for row in transferability.table(record).rows] == ["grid 3x3", "sine"] * 2
    assert "overhaul, sine below the bar (1 seed), ASR 5.00 %" in transferability.line(record)


def test_the_terminal_says_it_in_one_line_after_the_ledger(
    make_record: MakeRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = {"name": "x", "unit": "", "limit": 1.0, "value": None, "passed": False, "why": "said\x1b[2J by a board"}
    nothing = {"name": "ASR above floor", "unit": "%", "limit": 2.0, "value": None, "passed": True, "why": "no suspect"}
    record = make_record(config=CONFIG, gates=(hostile, nothing), warnings=("said\x1b[2J by a board",))
    assert show(record, Path("run"), False) == 1
    lines = capsys.readouterr().out.splitlines()
    place = lines.index(transferability.line(record))
    assert lines[place + 1] == record.verdict
    assert "warning: said by a board" in lines
    assert "gate: x ≤ 1 : FAILED, said by a board" in lines
    assert "gate: ASR above floor ≤ 2 %: passed, no suspect" in lines
