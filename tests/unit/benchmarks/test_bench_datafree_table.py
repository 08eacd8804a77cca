"""The table of distillation without data: paired seeds, and bars only where the plain source taught and carried over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from provenance import ABOUT

from benchmarks import datafree, datafree_table, vaccine, vaccine_table
from benchmarks.grid import HERE, Cell
from edgekd.datafree.run import source_class

GRID = "grid.tar"


def cell(row: str, acc: float, asr: float, seed: int = 0, teacher: str = GRID, **about: Any) -> dict[str, Any]:
    config = {
        "source": "patches",
        "teacher": teacher,
        "row": row,
        "student": "resnet8",
        "epochs": 30,
        "options": {"images": 24_000},
    }
    figures = {"acc": acc, "asr": asr, "ra": 30.0}
    vaccine = {"accepted": asr < 50, "trial": 0, "tails": []}
    method = {"source": {"classes": [], **({"vaccine": vaccine} if row in ("+SV", "+ABD") else {})}}
    return {
        **ABOUT,
        "config": {**config, "seed": seed, **about},
        "result": {
            "teacher": {"acc": 92.0, "asr": 99.0, "ra": 1.0}, "fp32": figures, "int8": figures, "agreement": 80.0,
            "method": method, "seconds": 90.0, "steps": 5610 + 400 * (row in ("plain, longer", "+SR", "+ABD")),
        },
    }  # fmt: skip


def shown(*records: dict[str, Any]) -> list[str]:
    return datafree_table.tables(list(records)).splitlines()


def test_rows_stand_in_order_with_the_vaccine_beside_them() -> None:
    lines = shown(
        cell("+ABD", 75, 4), cell("plain", 78, 90), cell("KD on clean data", 74, 2, epochs=20), cell("+SV", 77, 60),
        cell("plain, longer", 78, 89),
    )  # fmt: skip
    assert lines[0] == "**patches, grid, resnet8, 30 epochs of 24,000 images** (teacher 92.0 / 99.0)"
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and "---" not in line]
    assert [row[0] for row in rows] == ["row", "plain", "plain, longer", "+SV", "+ABD", "KD on clean data"]
    assert rows[1][1:6] == ["1", "78.00", "90.00", "–", "30.00"]
    assert [row[11] for row in rows[1:3]] == ["5610", "6010"]
    assert [row[9] for row in rows[1:]] == ["–", "–", "0 of 1 accepted", "1 of 1 accepted", "–"]
    assert "- patches: **the plain source carries 1 trigger(s) over, 2 wanted**" in lines
    second = [cell("plain", 78, 90, teacher="mark.pth"), cell("plain", 78, 90)]
    assert "- patches: the plain source carries 2 trigger(s) over, 2 wanted" in shown(*second)


@pytest.mark.parametrize(
    ("plain", "ours", "said"),
    [
        ((78.0, 90.0), (75.0, 4.0), "ABD: all bars met (1 seed)"),
        ((78.0, 90.0), (71.0, 20.0), "ABD: **ACC more than 6 below plain, ASR above 15** (1 seed)"),
        ((78.0, 40.0), (75.0, 4.0), "the plain source does not carry the backdoor over (1 seed)"),
        ((60.0, 90.0), (75.0, 4.0), "does not count: ACC of the plain source below 70"),
    ],
)
def test_bars_where_the_source_carries_it_over(plain: Any, ours: Any, said: str) -> None:
    assert f"- {said}" in shown(cell("plain", *plain), cell("+ABD", *ours))


def test_a_clean_teacher_may_lose_little_and_gain_no_trigger() -> None:
    made = [cell("plain", 78, 3, teacher="clean"), cell("+ABD", 77, 3, teacher="clean")]
    assert "- ABD: all bars met (1 seed)" in shown(*made)
    worse = [cell("plain", 78, 3, teacher="clean"), cell("+ABD", 75, 4.5, teacher="clean")]
    assert "- ABD: **ACC more than 2 below plain, ASR raised by more than 1** (1 seed)" in shown(*worse)
    assert "- patches: **the plain source carries 0 trigger(s) over, 2 wanted**" in shown(*made)


def test_seeds_are_paired_and_a_source_without_a_bar_says_nothing() -> None:
    lines = shown(cell("plain", 78, 90), cell("plain", 80, 92, 1), cell("+ABD", 75, 4, 1))
    said = "| plain | 2 | 79.00 [78.00 to 80.00] | 91.00 [90.00 to 92.00] | – | 30.00 [30.00 to 30.00] |"
    assert said in " ".join(lines)
    assert "- ABD: all bars met (1 seed)" in lines
    assert "- ABD: not measured" in shown(cell("plain", 78, 90))
    assert not [line for line in shown(cell("plain", 30, 90, source="cmi")) if line.startswith("- ")]


def test_a_trigger_that_fools_the_clean_teachers_student_is_not_carried_over() -> None:
    clean = cell("plain", 78, 3, teacher="clean")
    clean["result"]["floors"] = {GRID: 45.0, "mark.pth": 2.0}
    lines = shown(clean, cell("plain", 78, 70), cell("plain", 78, 70, teacher="mark.pth"))
    assert "- the plain source does not carry the backdoor over (1 seed)" in lines
    assert "- patches: **the plain source carries 1 trigger(s) over, 2 wanted**" in lines
    assert [line.split(" | ")[4] for line in lines if line.startswith("| plain |")] == ["–", "45.00", "2.00"]


def test_lengths_are_told_apart_and_data_stand_beside_every_source() -> None:
    lines = shown(
        cell("plain", 78, 90), cell("plain", 80, 90, epochs=8, options={"images": 96_000}),
        cell("plain", 60, 90, source="zskt", epochs=15, options={}), cell("KD on clean data", 74, 2, epochs=20),
    )  # fmt: skip
    assert sum(line.startswith("**") for line in lines) == 3
    assert sum(line.startswith("| KD on clean data |") for line in lines) == 3


def test_a_retrospection_that_was_taken_back_is_said_and_int8_may_not_wake_the_backdoor() -> None:
    ours = cell("+ABD", 75, 4)
    ours["result"]["method"]["retrospection"] = {"kept": False}
    ours["result"]["int8"] = {"acc": 75, "asr": 9, "ra": 30.0}
    lines = shown(cell("plain", 78, 90), cell("plain, longer", 82, 90), ours)
    assert "0 of 1 kept" in next(line for line in lines if line.startswith("| +ABD"))
    assert "- ABD: **ACC more than 6 below plain, longer, INT8 ASR more than 2 above FP32** (1 seed)" in lines


def test_students_of_another_edgekd_are_not_taken(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = type("Teacher", (), {"sha256": "0" * 64})
    rows = {config["row"]: config for config in datafree.cells() if config["seed"] == 0}
    place = datafree._place(rows["plain"], teacher, tmp_path)
    # each row's own steps go into other folders below
    assert place == datafree._place({**rows["plain"], "row": "+SR"}, teacher, tmp_path)
    assert place == datafree._place({**rows["plain"], "row": "plain, longer"}, teacher, tmp_path)
    assert place != datafree._place({**rows["plain"], "row": "+ABD"}, teacher, tmp_path)
    monkeypatch.setattr(datafree, "trees", lambda: {"edgekd": "other"})
    assert place != datafree._place(rows["plain"], teacher, tmp_path)


def test_cells_differ_have_sources_that_exist_and_fit_ten_hours(tmp_path: Any) -> None:
    cells = list(datafree.cells())
    assert len({Cell(datafree.TABLE, config, tmp_path).id for config in cells}) == len(cells)
    for config in cells:
        kind = source_class(config["source"])
        if config["row"] != datafree.WITH_DATA:
            kind.Config.model_validate(config["options"])
    assert {datafree.GRID, datafree.WATERMARK, datafree.CLEAN} <= {config["teacher"] for config in cells}
    assert sum(map(datafree.forecast, cells)) < 60 * 20


def test_separation_counts_pairs_and_ties() -> None:
    low, high = np.array([1.0, 2.0, 5.0]), np.array([2.0, 3.0])
    # pairs: 1<2, 1<3, 2=2, 2<3, 5>2, 5>3
    assert vaccine.separation(low, high) == pytest.approx((1 + 1 + 0.5 + 1 + 0 + 0) / 6)
    assert vaccine.separation(high, low) == pytest.approx(1 - 3.5 / 6)


def test_the_vaccines_table_says_what_was_accepted() -> None:
    def row(layers: int, accepted: bool) -> dict[str, Any]:
        config = {"teacher": GRID, "layers": layers, "images": 10, "seed": 0}
        result = {"accepted": accepted, "trial": 1 if accepted else -1, "tails": [0.01, 0.031], "convolutions": layers}
        suspected = {"patches": 3.0, "clean": 0.5, "triggered": 97.0}
        return {**ABOUT, "config": config, "result": {**result, "auc": 0.9876, "suspected": suspected}}

    lines = vaccine_table.tables([row(2, False), row(5, True)]).splitlines()
    assert lines[2] == "| grid | 5 | trial 2 | 3.1 | 0.988 | 3.0 | 0.5 | 97.0 |"
    assert lines[3].startswith("| grid | 2 | none |")
    assert len({Cell(vaccine.TABLE, config, HERE).id for config in vaccine.cells()}) == 25
