"""The picture of the defences: its means over seeds, its digest, and a stale one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import render, robustkd_figure
from benchmarks.robustkd import EVERY
from benchmarks.robustkd_figure import NAMES, REPAIRED, REPAIRS, Point, points
from benchmarks.robustkd_table import SHOWN
from edgekd.files import write_json


def record(row: str, seed: int, acc: float, asr: float, **config: Any) -> dict[str, Any]:
    cell = {"teacher": "leak", "rate": 0.0, "row": row, "images": 2500, "epochs": 40, "seed": seed, **config}
    return {"config": cell, "result": {"int8": {"acc": acc, "asr": asr}}, "commit": "0" * 40}


RECORDS = [
    record("scratch", 0, 60.0, 1.0),
    record("scratch", 1, 62.0, 2.0),
    record("kd", 0, 66.0, 90.0),
    record("kd", 1, 67.0, 80.0),
    record("kd", 2, 99.0, 0.0),  # no scratch of that seed
    record("clp, kd", 1, 61.0, 70.0),
    record("robustkd-plus", 0, 80.0, 3.0, images=45_000),
    record("kd", 0, 70.0, 95.0, labels="teacher"),
    record("kd", 0, 70.0, 5.0, teacher="clean"),
]


def test_asr_is_over_all_seeds_and_acc_over_those_that_scratch_has() -> None:
    assert points(RECORDS) == [
        Point("scratch", "leak", 1.5, 0.0, 2),
        Point("kd", "leak", 56.67, 5.5, 2),
        Point("clp, kd", "leak", 70.0, -1.0, 1),
    ]


def test_every_row_of_the_picture_is_one_of_the_grid() -> None:
    assert set(NAMES) == set(SHOWN)
    assert {*NAMES, *(name + REPAIRED for name in REPAIRS)} <= set(EVERY)


def test_the_picture_names_rows_and_attacks() -> None:
    drawn = robustkd_figure.svg(RECORDS)
    assert all(f">{name}<" in drawn for name in ("leak", "no teacher", "Hinton KD", "CLP, then Hinton KD"))
    assert "RobustKD+" not in drawn
    assert drawn == robustkd_figure.svg(RECORDS)


def test_a_stale_picture_is_told_and_drawn_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "docs" / "defences.svg"
    assert render.main(["--check", "--root", str(tmp_path)]) == 0  # no records, no picture
    for number, each in enumerate(RECORDS):
        write_json(tmp_path / "benchmarks" / "results" / "robustkd" / f"{number}.json", each)
    assert render.main(["--check", "--root", str(tmp_path)]) == 1
    assert not picture.exists()
    assert render.main(["--root", str(tmp_path)]) == 0
    assert picture.read_text("utf-8") == robustkd_figure.svg(sorted(RECORDS, key=lambda each: str(each["config"])))
    assert render.main(["--check", "--root", str(tmp_path)]) == 0
    write_json(tmp_path / "benchmarks" / "results" / "robustkd" / "9.json", record("clp, kd", 0, 60.0, 70.0))
    capsys.readouterr()
    assert render.main(["--check", "--root", str(tmp_path)]) == 1
    assert "docs/defences.svg is stale" in capsys.readouterr().out
