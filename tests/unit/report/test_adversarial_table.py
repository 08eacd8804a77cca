"""Accuracy under attack in words and tables, for the report and for the terminal."""

from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console

from edgekd import report
from edgekd.report import adversarial
from edgekd.types import RunRecord

MakeRecord = Callable[..., RunRecord]


def test_the_sentence_says_all_that_the_figure_needs(make_record: MakeRecord) -> None:
    student, file = adversarial.of(make_record())
    assert student.sentence == (
        "l_inf ≤ 8/255, tier quick, 500 images, seed 0: 2.40 % left (1.4–4.1). PGD-20 at smaller bounds "
        "(on 250 of the images) leaves 1/255: 60.00 %, 8/255: 2.40 %. Half of the images have given way at 1.4/255."
    )
    assert student.trusted
    assert not file.trusted
    assert file.sentence.endswith(
        "On the adversarial images of student fp32 it gives another label to 30.00 %. Not to be relied on: no more robust "
        "than student fp32: 28.0% left, of student fp32 2.4%."
    )


def test_a_curve_of_all_images_does_not_say_how_many() -> None:
    rows = [{"bound": 1 / 255, "left": {"hits": 3, "total": 5}}]
    (section,) = adversarial.sections([{"images": 5, "curve": rows}])
    assert "PGD-20 at smaller bounds leaves 1/255: 60.00 %" in section.sentence


def test_the_tables_hold_every_attack_and_every_test(make_record: MakeRecord) -> None:
    student, file = adversarial.of(make_record())
    assert [[cell.text for cell in row] for row in student.attacks.rows] == [
        ["none", "", "86.00 %"],
        ["PGD-20", "20 steps of 0.25 eps, cross-entropy", "2.40 %"],
        ["worst of all", "", "2.40 %"],
    ]
    assert [row[1].text for row in file.attacks.rows] == ["", "the same rounded", "500 queries, margin", ""]
    assert [row[1].text for row in student.checks.rows] == ["passed", "told alone"]
    assert file.checks.rows[0][1].tone == "bad"


def test_pages_show_them_and_are_silent_without(make_record: MakeRecord) -> None:
    with_tables, without = make_record(), make_record(adversarial=())
    for page in (report.html, report.markdown):
        assert "Accuracy under attack" in page(with_tables)
        assert "Square" in page(with_tables)
        assert "Accuracy under attack" not in page(without)


def test_the_terminal_shows_tests_where_one_failed(make_record: MakeRecord) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=200)
    for part in adversarial.terminal(make_record().adversarial):
        console.print(part)
    said = stream.getvalue()
    assert "Under attack: student fp32" in said
    assert "told alone" not in said
    assert "FAILED" in said
    assert "2.40 % (12 of 500, 1.4–4.1)" in said
    assert adversarial.terminal(()) == []


def test_what_a_stranger_left_out_is_not_measured() -> None:
    (section,) = adversarial.sections([{"attacks": "none", "checks": [3], "robust": {"hits": "x"}}, "nonsense"])
    assert "not measured left (nothing counted)" in section.sentence
    assert section.trusted
    assert [row[2].text for row in section.attacks.rows] == ["not measured", "not measured"]
    assert adversarial.levels("8/255") == "not measured"
