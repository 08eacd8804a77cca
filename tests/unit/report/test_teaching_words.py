"""What a report says of a teacher's outputs beside the label; the record may be anybody's."""

import dataclasses

import pytest

from edgekd import report
from edgekd.report import teaching
from edgekd.types import Rate

FOUND = {"correlation": 0.612, "images": 2000, "suspicious": False}


def test_every_outcome_has_its_words():
    assert teaching.sentence(FOUND).endswith(
        "(the bound is 0.3; on the digits that it comes from, normal teachers had 0.5 or more, nasty ones less than 0.2): "
        "nothing suspicious."
    )
    assert "correlate with the reference's by 0.612 on 2,000 images" in teaching.sentence(FOUND)
    assert "SUSPICIOUS" in teaching.sentence({**FOUND, "suspicious": True})
    assert "not judged" in teaching.sentence({**FOUND, "suspicious": None})
    for nothing in (None, {}, [], {"correlation": "x"}):
        assert "was not measured" in teaching.sentence(nothing)


def test_only_a_suspicious_one_is_warned_of_with_what_to_do():
    assert teaching.warning(None) is teaching.warning(FOUND) is teaching.warning({**FOUND, "suspicious": None}) is None
    assert teaching.warning([]) is teaching.warning("suspicious") is None, "the record may be anybody's"
    said = teaching.warning({**FOUND, "correlation": -0.04, "suspicious": True})
    assert "−0.04" in said
    assert "nasty teacher" in said
    assert "distill.temperature=1" in said


def with_acc(record, **hits):
    rows = (
        dataclasses.replace(row, acc=None if hits.get(row.stage, 0) is None else Rate(hits[row.stage], 10_000))
        if row.stage in hits
        else row
        for row in record.rows
    )
    return dataclasses.replace(record, rows=tuple(rows))


@pytest.mark.parametrize(
    ("student", "scratch", "told"),
    [
        (7800, 8010, True),
        (7895, 8010, True),
        (7905, 8010, False),
        (8288, 8010, False),
        (None, 8010, False),
        (0, None, False),
    ],
)
def test_a_student_that_its_teacher_made_worse_is_told(make_record, student, scratch, told):
    """Of 10,000 images at 80 %, 1.96 standard errors of a difference are 1.1 points."""
    record = with_acc(make_record(), **{"student fp32": student, "scratch": scratch})
    said = teaching.harm(record)
    assert (said is not None) is told
    for page in (report.html, report.markdown):
        assert ("WORSE THAN WITHOUT A TEACHER" in page(record)) is told
    assert teaching.harm(dataclasses.replace(record, config={**record.config, "method": "pgd-at"})) is None
    assert not told or f"{student / 100:.2f} %" in said


def test_a_record_without_the_control_or_without_images_says_nothing(make_record):
    record = make_record()
    assert teaching.harm(dataclasses.replace(record, rows=record.rows[:1])) is None
    empty = [dataclasses.replace(row, acc=Rate(0, 0)) if row.stage == "scratch" else row for row in record.rows]
    assert teaching.harm(dataclasses.replace(record, rows=tuple(empty))) is None
