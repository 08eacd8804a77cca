"""Quantisation-aware distillation in the report: what learned from what, and which twin ships."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgekd.report import html, markdown, qad
from edgekd.types import RunRecord

MakeRecord = Callable[..., RunRecord]
FOUND: dict[str, Any] = {
    "flavour": "u8s8",
    "kind": "lsq",
    "images": {"count": 40000, "sha256": "7" * 64},
    "float": 0.9,
    "wanted": 0.895,
    "before": 0.88,
    "after": 0.8925,
    "kept": True,
}
LIMIT = "quantize.guard.max_drop"
LOG: dict[str, Any] = {"epochs": 10, "steps": 1000, "seed": 0, "device": "cpu", "history": [{"epoch": 1, "loss": 0.1}]}
MADE: dict[str, Any] = {
    "keep": {"net.conv1": "why"},
    "float": 0.9,
    "wanted": 0.895,
    "calibrated": 0.88,
    "reached": 0.8925,
    "sha256": "5" * 64,
    "log": {**LOG, "method": {"qad": FOUND}},
}


def distilled(make_record: MakeRecord, found: Any) -> RunRecord:
    return make_record(training={**make_record().training, "qad u8s8": {**LOG, "method": {"qad": found}}})


def test_what_was_distilled_stands_in_the_report(make_record: MakeRecord) -> None:
    record = distilled(make_record, FOUND)
    (row,) = qad.table(record).rows
    assert [cell.text for cell in row] == [
        *("u8s8", "weights and scales (lsq)", "40,000", "1,000", "90.00 %", "88.00 %", "89.25 %", "distilled"),
    ]
    for page in (html(record), markdown(record)):
        assert "Quantisation-aware distillation" in page
        assert "weights and scales (lsq)" in page
    (other,) = qad.table(distilled(make_record, {**FOUND, "kept": False})).rows
    assert other[-1].text == "calibrated"


def test_a_run_without_it_says_nothing_of_it(make_record: MakeRecord) -> None:
    assert qad.table(make_record()).rows == ()
    assert "Quantisation-aware" not in html(make_record())
    assert "Quantisation-aware" not in markdown(make_record())


@pytest.mark.parametrize(
    "found",
    [{}, {"kind": ["<script>"], "images": 3, "float": "x", "after": float("nan"), "kept": "yes", "flavour": {}}],
)
def test_a_log_that_is_none_breaks_no_page(make_record: MakeRecord, found: Any) -> None:
    record = distilled(make_record, found)
    (row,) = qad.table(record).rows
    assert {row[4].text, row[6].text, row[7].text} == {"not measured"}
    assert "<script" not in html(record)


def test_the_ledgers_note_names_images_steps_and_accuracies() -> None:
    assert qad.note(MADE, "ACC") == (
        "distilled after quantisation (lsq) from the FP32 student: 1000 steps on 40000 images; validation ACC 88.00 % "
        "before, 89.25 % after, 90.00 % in FP32"
    )


def test_a_warning_says_what_was_tried_and_which_twin_ships() -> None:
    assert qad.warning("u8s8", "ACC", MADE, 0.005, LIMIT) == (
        "INT8 (u8s8) has validation ACC 88.00 % with 1 layer in float, FP32 90.00 %: more than the 0.5 points that "
        "quantize.guard.max_drop allows. Quantisation-aware distillation reached 89.25 %. The distilled twin ships."
    )
    bare = {**MADE, "keep": {}, "sha256": "", "reached": 0.88, "log": None}
    assert qad.warning("s8", "agreement", bare, 0.002, "--max-acc-drop") == (
        "INT8 (s8) has validation agreement 88.00 %, FP32 90.00 %: more than the 0.2 points that "
        "--max-acc-drop allows. The calibrated twin ships."
    )
    assert qad.warning("u8s8", "ACC", {**MADE, "reached": 0.895}, 0.005, LIMIT) is None


def test_it_is_said_that_the_limit_on_layers_ended_the_search() -> None:
    ended = "; quantize.guard.most_float ended the search with 5 more layers to try"
    assert f"quantize.guard.max_drop allows{ended}. Quantisation" in str(
        qad.warning("u8s8", "ACC", {**MADE, "untried": 5}, 0.005, LIMIT)
    )
    assert qad.note({**MADE, "untried": 5}, "ACC") == qad.note({**MADE, "untried": 0}, "ACC") + ended
