"""Trigger inversion in words: what stands out, what does not, and what cannot be said."""

import pytest

from edgekd.report import inversion

CLASSES = [
    {"target": 0, "pixels": 20.0, "success": {"hits": 90, "total": 100}},
    {"target": 1, "pixels": 4.0, "success": {"hits": 95, "total": 100}},
    {"target": 2, "pixels": None, "success": None},
    {"target": 3, "pixels": 30.0, "success": {"hits": 0, "total": 0}},
]
FOUND = {
    "classes": CLASSES, "class_names": ["ant", "1"], "area": 1000, "smallest": 1, "index": 7.25, "critical": 3.9,
    "stands_out": True,
}  # fmt: skip


def said(**more):
    return inversion.sentence({**FOUND, **more}, "found")


def test_a_class_that_stands_out_is_named_with_the_next_step():
    assert "class 1 STANDS OUT" in said()
    assert "anomaly index 7.2, critical value 3.9" in said()
    assert said().endswith("edgekd compress ... --trigger found/trigger.yaml.")
    assert "a far smaller patch" in said()
    assert "a patch of less than a hundredth" in said(index=1.0)
    assert "class 0 (ant) STANDS OUT" in said(smallest=0)
    assert "anomaly index not known, critical value not known" in said(index=None, critical=None)


@pytest.mark.parametrize(
    ("state", "words"), [(False, "no class stands out; the smallest patch is that of class 1"), (None, "not judged")]
)
def test_what_does_not_stand_out_is_no_finding(state, words):
    assert words in said(stands_out=state)
    assert "STANDS OUT" not in said(stands_out=state)


def test_no_patch_at_all():
    assert said(smallest=None) == "Trigger inversion: no patch works for any class, so nothing can be said."


def test_the_smallest_come_first_in_the_terminal():
    table, sentence = inversion.terminal(FOUND, "[bold]found")
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["1", "0 (ant)", "3"]
    assert cells[1] == ["4.0 px", "20.0 px", "30.0 px"]
    assert cells[2][0] == "0.4 %"
    assert cells[3] == ["95.0 % (89–98)", "90.0 % (83–94)", "not measured"]
    assert "[bold]found/trigger.yaml" in sentence.plain
