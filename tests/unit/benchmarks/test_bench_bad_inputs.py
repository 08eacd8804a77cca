"""The bad-inputs benchmark: its judgement, and one area of it for real."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import bad_inputs, robustness_table
from benchmarks.bad_inputs import Case


def case(code: int = 2, said: str = "edgekd: the cause.\n", shown: str = "", write: str = "") -> Case:
    def run(words: list[str]) -> int:
        print(said, end="", file=sys.stderr)
        print(shown, end="")
        if write:
            (Path(words[0]) / write).write_text("half")
        return code

    return Case("name", lambda folder: [str(folder)], 2, "the cause", run)


def test_what_is_met() -> None:
    row = bad_inputs.judged(case())
    assert row["met"] is True
    assert row["message"] == "edgekd: the cause."
    assert bad_inputs.judged(case(write=".lock"))["met"] is True


@pytest.mark.parametrize(
    "wrong",
    [
        case(code=5),
        case(said="edgekd: something else.\n"),
        case(said="edgekd: the cause.\nand more\n"),
        case(said="Traceback: the cause\n"),
        case(said="edgekd: the cause \x1b[31m.\n"),
        case(shown="the cause"),
        case(write="student.safetensors"),
    ],
    ids=["code", "cause", "lines", "traceback", "control", "output", "written"],
)
def test_what_is_not_met(wrong: Case) -> None:
    assert bad_inputs.judged(wrong)["met"] is False


def mended(shown: str, said: str = "", code: int = 0, write: str = "engines/e.plan") -> Case:
    def run(words: list[str]) -> int:
        (Path(words[0]) / "engines").mkdir()
        (Path(words[0]) / write).write_text("whole")
        print(said, end="", file=sys.stderr)
        print(shown)
        return code

    return Case("name", lambda folder: [str(folder)], 0, "the cause", run)


def test_what_is_made_anew() -> None:
    row = bad_inputs.judged(mended("built in 1 s\n    not used: the cause\n    more"))
    assert (row["met"], row["message"]) == (True, "not used: the cause")
    for wrong in (
        mended("built in 1 s"),
        mended("the cause\nthe cause"),
        mended("the cause", said="a warning"),
        mended("the cause", code=4),
        mended("the cause", write="elsewhere"),
    ):
        assert bad_inputs.judged(wrong)["met"] is False


def test_messages_do_not_name_the_machines_folders() -> None:
    def run(words: list[str]) -> int:
        print(f"edgekd: {words[0]}/bad.pt: the cause.", file=sys.stderr)
        return 2

    row = bad_inputs.judged(Case("name", lambda folder: [str(folder)], 2, "the cause", run))
    assert row["message"] == "edgekd: bad.pt: the cause."


def test_every_bad_data_set_is_met_through_the_command_line(tmp_path: Path) -> None:
    result = bad_inputs.run({"area": "data"}, tmp_path)
    assert result["cases"] >= 14
    assert [row["case"] for row in result["rows"] if not row["met"]] == []


def test_every_flipped_bit_is_met_through_the_command_line(tmp_path: Path) -> None:
    result = bad_inputs.run({"area": "flipped bit"}, tmp_path)
    codes = [row["met_code"] for row in result["rows"]]
    assert (result["met"], result["cases"]) == (len(codes), len(codes))
    assert {3, 2} == set(codes)
    assert codes.count(3) == len(codes) // 5, "a bit of the manifest"


def test_records_become_tables() -> None:
    about = {"commit": "c0ffee", "dirty": False, "hardware": {}, "versions": {}, "load_average": 1.0}
    rows = [{"met_code": 2}, {"met_code": 3}, {"met_code": 2}]
    record = {**about, "config": {"area": "data"}, "result": {"cases": 3, "met": 2, "rows": rows}}
    assert "| data | 3 | 2 x 2, 1 x 3 | 2 of 3 |" in robustness_table.bad_inputs([record])
    kept = {"stage": "export", "point": "onnx.begin:1", "hit": "export", "stages_kept": 9, "resumed_at": None}
    late = {"stage": "random", "point": "40% of the run", "hit": "train-kd", "stages_kept": 3, "resumed_at": 2}
    result = {"rows": [{**kept, "met": True}, {**late, "met": False, "different": ["model.onnx"]}]}
    table = robustness_table.kills([{**about, "config": {}, "result": result}])
    assert "| export | onnx.begin:1 | 9 | – | same bytes |" in table
    assert "| train-kd | 40% of the run | 3 | after epoch 2 | NOT MET: model.onnx |" in table


def test_engines_are_built_and_judged_in_this_process(tmp_path: Path) -> None:
    tests = str(Path(__file__).resolve().parents[2] / "device")
    sys.path.append(tests)
    try:
        cases = bad_inputs.engines(tmp_path)
        assert bad_inputs.judged(next(cases))["met"] is True
        cases.close()
    finally:
        sys.path.remove(tests)
