"""ACC by class in the report: the class that lost most comes first, and a stranger's record breaks nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgekd.report import classes, html, markdown
from edgekd.types import RunRecord

MakeRecord = Callable[..., RunRecord]
FOUND: dict[str, Any] = {
    "names": ["cat", "dog", "never seen", "spare"],
    "images": [100, 100, 0],
    "stages": ["teacher", "student fp32", "model.u8s8.onnx"],
    "right": [[90, 95, 0], [88, 70, 0], [89, 60, 0]],
}


def test_the_class_that_lost_most_comes_first(make_record: MakeRecord) -> None:
    record = make_record(classes=FOUND)
    found = classes.table(record)
    assert found.columns[-2:] == ("model.u8s8.onnx − teacher", "model.u8s8.onnx − student fp32")
    assert [[cell.text for cell in row] for row in found.rows] == [
        ["dog", "95.00 %", "70.00 %", "60.00 %", "−35.00", "−10.00"],
        ["cat", "90.00 %", "88.00 %", "89.00 %", "−1.00", "+1.00"],
    ]
    assert [[cell.tone for cell in row[-2:]] for row in found.rows] == [["bad", ""], ["", ""]]
    assert "By class" in html(record)
    assert "### By class" in markdown(record)


def test_of_many_classes_the_worst_are_shown(make_record: MakeRecord) -> None:
    many = {
        "names": [str(k) for k in range(20)],
        "images": [10] * 20,
        "stages": ["teacher", "model.onnx"],
        "right": [[10] * 20, [k % 10 for k in range(20)]],
    }
    found = classes.table(make_record(classes=many))
    assert len(found.rows) == classes.MOST_CLASSES
    assert "8 more classes are in run.json" in found.reading
    assert [row[0].text for row in found.rows[:3]] == ["0", "10", "1"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {**FOUND, "names": ["cat"]},
        {**FOUND, "images": [100, "many", 0]},
        {**FOUND, "stages": ["teacher"], "right": [[90, 95, 0]]},
        {**FOUND, "stages": ["teacher", "student fp32"]},
        {**FOUND, "right": {"teacher": [90, 95, 0]}},
        {**FOUND, "right": [[90, 95, 0], [88, 70, 0], [1, 2]]},
        {**FOUND, "right": [[90, 95, 0], [88, 70, 0], [1, 200, 0]]},
    ],
)
def test_what_is_no_table_by_class_is_left_out(make_record: MakeRecord, value: Any) -> None:
    record = make_record(classes=value)
    assert not classes.table(record).rows
    assert "By class" not in html(record)
