"""Records to Markdown and back into the page: the round trip, stale pages, bars, what is not transferable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import render
from benchmarks.grid import Table, main
from edgekd import files
from edgekd.report.transferability import verdict
from edgekd.types import Latency, Rate, RunRecord, StageRow, TriggerScore

Page = Callable[[str], Path]
EMPTY = "# Title\n\nbefore\n<!-- table:main_job -->\nold\n<!-- /table:main_job -->\nafter\n"


def row(
    stage: str, acc: float, asr: float, kind: str = "stage", runtime: str = "torch", precision: str = "fp32"
) -> StageRow:
    timed = Latency(1, 100, 0.2, 0.3, None, 0.2, 0.1, 0.4) if runtime == "onnxruntime" else None
    score = TriggerScore("grid", "known", Rate(round(90 * asr), 9000), Rate(7000, 9000), floor=Rate(180, 9000))
    return StageRow(
        stage=stage,
        kind=kind,
        runtime=runtime,
        precision=precision,
        sha256="0" * 64,
        acc=Rate(round(100 * acc), 10_000),
        triggers=(score,),
        flips=Rate(50, 10_000) if kind == "stage" else None,
        size_bytes=140_000,
        latency=timed,
    )


def run(
    int8_acc: float = 82.0, int8_asr: float = 2.1, kd_asr: float = 90.0, overhaul_asr: float = 95.0
) -> dict[str, Any]:
    rows = (
        row("teacher", 83.36, 99.99),
        row("scratch", 80.0, 2.0, kind="control"),
        row("kd", 82.2, kd_asr, kind="control"),
        row("overhaul", 82.1, overhaul_asr, kind="control"),
        row("student fp32", 82.3, 2.0),
        row("student int8 simulated", 82.2, 2.0, precision="int8"),
        row("model.onnx", 82.3, 2.0, runtime="onnxruntime"),
        row("model.u8s8.onnx", int8_acc, int8_asr, runtime="onnxruntime", precision="int8"),
    )
    nothing: dict[str, Any] = {}
    record = RunRecord(
        *("name", "0.1.0", "c0ffee", "2026-11-20T10:00:00Z", "edgekd compress x"),
        *(nothing, nothing, {"arch": "resnet14"}, nothing, "cpu", rows, (), "verdict", (), nothing),
    )
    return {"record": record.to_json()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(EMPTY)
    return tmp_path


def fill(
    root: Path, results: dict[tuple[str, int], dict[str, Any]], table: str = "main_job", load: float = 0.2
) -> None:
    """Write records as the grid does, from given results, as if on a machine with this load."""
    grid = Table(
        table,
        lambda: [{"teacher": teacher, "seed": seed} for teacher, seed in results],
        lambda config, folder: results[config["teacher"], config["seed"]],
    )
    assert main(grid, ["--folder", str(root / "benchmarks")]) == 0
    for record in (root / "benchmarks" / "results" / table).glob("*.json"):
        files.write_json(record, {**files.read_json(record), "load_average": load})


def page(root: Path, *arguments: str) -> tuple[int, str]:
    return render.main(["--root", str(root), *arguments]), (root / "README.md").read_text()


def test_the_round_trip(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(root, {("a.pth", 0): run()})
    assert page(root, "--check") == (1, EMPTY)
    assert "README.md is stale" in capsys.readouterr().out
    code, made = page(root)
    assert code == 0
    assert made.startswith("# Title\n\nbefore\n<!-- table:main_job -->\n**a** (target cpu, student resnet14, seed 0")
    assert made.endswith("<!-- /table:main_job -->\nafter\n")
    assert page(root, "--check") == (0, made)
    assert page(root) == (0, made)
    (path,) = (root / "benchmarks" / "results" / "main_job").glob("*.json")
    files.write_json(path, {**files.read_json(path), "result": run(int8_acc=81.9)})
    assert page(root, "--check")[0] == 1


def test_every_row_stands_there_with_its_figures(root: Path) -> None:
    fill(root, {("a.pth", 0): run()})
    lines = [line for line in page(root)[1].splitlines() if line.startswith("| ") and "---" not in line]
    names = "row,teacher,control: scratch,control: kd,control: overhaul,student fp32,onnx fp32,onnx int8".split(",")
    assert [line.split(" | ")[0] for line in lines] == [f"| {name}" for name in names]
    assert lines[1] == "| teacher | 83.36 | 99.99 | 2.00 | 77.78 | – | 137 KiB | not measured |  |"
    assert [lines[n].split(" | ")[-1] for n in (2, 3, 4)] == [" |", *2 * ["above the bar (1 seed) |"]]
    assert lines[7] == "| onnx int8 | 82.00 | 2.10 | 2.00 | 77.78 | 0.50 | 137 KiB | 0.200 ms | all 4 met |"


def test_latencies_of_a_busy_machine_are_not_quoted(root: Path) -> None:
    fill(root, {("a.pth", 0): run()}, load=0.6)
    assert "0.200 ms" not in page(root)[1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"int8_acc": 81.35}, "ACC against the teacher is −2.01 points; the bar is −2."),
        ({"int8_acc": 79.49}, "ACC against scratch is −0.51 points; the bar is −0.5."),
        ({"int8_acc": 81.79}, "ACC against the FP32 file is −0.51 points; the bar is −0.5."),
        ({"int8_asr": 4.1}, "Excess ASR is 2.10 points; the bar is 2."),
    ],
)
def test_a_missed_bar_gets_a_sentence(root: Path, changes: dict[str, float], sentence: str) -> None:
    fill(root, {("a.pth", 0): run(**changes)})
    made = page(root)[1]
    assert f"- {sentence}\n" in made
    assert "missed** |" in made


def test_bars_are_met_on_the_line(root: Path) -> None:
    fill(root, {("a.pth", 0): run(int8_acc=81.8, int8_asr=4.0)})
    assert "all 4 met" in page(root)[1]


@pytest.mark.parametrize("kind", ["kd", "overhaul"])
@pytest.mark.parametrize("found", [49.9, 50.1])
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_each_plain_distillation_has_its_own_verdict(root: Path, kind: str, found: float, seeds: int) -> None:
    result = run(**{"kd_asr": 90.0, "overhaul_asr": 90.0, f"{kind}_asr": found})
    fill(root, {("a.pth", seed): result for seed in range(seeds)})
    words = {
        line.split(" | ")[0].removeprefix("| control: "): line.split(" | ")[-1]
        for line in page(root)[1].splitlines()
        if line.startswith("| control: ")
    }
    other = "kd" if kind == "overhaul" else "overhaul"
    assert (words[kind], words[other]) == (f"{verdict(found > 50, seeds)} |", f"{verdict(True, seeds)} |")


def test_what_was_not_measured_is_missed(root: Path) -> None:
    result = run()
    result["record"]["rows"] = [
        r for r in result["record"]["rows"] if r["stage"] not in ("scratch", "kd", "overhaul", "model.u8s8.onnx")
    ]
    fill(root, {("a.pth", 0): result})
    made = page(root)[1]
    assert "**4 of 4 missed**" in made
    assert "- ACC against scratch was not measured." in made
    assert "| onnx int8 | not measured | not measured |" in made


def test_seeds_of_one_teacher_are_one_entry(root: Path) -> None:
    fill(root, {("a.pth", seed): run(int8_acc=82 + seed / 10) for seed in range(3)} | {("b.pth", 0): run()})
    made = page(root)[1]
    assert made.count("| onnx int8 |") == 2
    assert "seed 0, 1, 2" in made
    assert "| onnx int8 | 82.10 [82.00 to 82.20] | 2.10 [2.10 to 2.10] |" in made
    assert "4 records; commit" in made


def test_the_summary_has_a_line_per_teacher(root: Path) -> None:
    (root / "README.md").write_text(EMPTY.replace("main_job", "main_job_summary"))
    fill(root, {("a.pth", 0): run(), ("b.pth", 0): run(kd_asr=20.0)})
    made = page(root)[1]
    plain = "90.00, above the bar (1 seed) | 95.00, above the bar (1 seed)"
    assert (
        f"| a | 83.36 | 80.00 | 82.00 | 99.99 | {plain} | 2.10 | 2.00 | 137 KiB | 0.200 ms | 0 s | all 4 met |" in made
    )
    assert "| 20.00, below the bar (1 seed) | 95.00, above the bar (1 seed) |" in made
    assert "to be run anew" not in made


def test_a_run_of_several_versions_is_named_under_the_summary(root: Path) -> None:
    mixed = run()
    mixed["record"]["warnings"] = ["Stages of this run were made by different sources of edgekd (a: intake)."]
    (root / "README.md").write_text(EMPTY.replace("main_job", "main_job_summary"))
    fill(root, {("a.pth", 0): run(), ("b.pth", 0): mixed})
    assert "to be run anew before they are quoted: b." in page(root)[1]


def test_what_has_to_be_known_before_quoting_stands_under_the_table(root: Path) -> None:
    weak = run()
    weak["record"]["warnings"] = ["Made by different sources."]
    weak["record"]["rows"][0]["triggers"][0]["asr"] = {"hits": 1323, "total": 9000}
    fill(root, {("a.pth", 0): run(), ("b.pth", 0): weak})
    first, second = page(root)[1].split("**b**")
    assert "obeys its own trigger" not in first
    assert "Warning of" not in first
    assert "- The teacher obeys its own trigger on 14.7 % only: nothing is said here of the defence." in second
    assert "- Warning of the run: Made by different sources." in second


def test_a_control_that_was_not_run_has_no_verdict(root: Path) -> None:
    (root / "README.md").write_text(EMPTY.replace("main_job", "main_job_summary"))
    result = run()
    result["record"]["rows"] = [r for r in result["record"]["rows"] if r["stage"] != "overhaul"]
    fill(root, {("a.pth", 0): result})
    assert "| 90.00, above the bar (1 seed) | not measured | 2.10 |" in page(root)[1]


@pytest.mark.parametrize("file", ["benchmarks/README.md", "benchmarks/pages/any.md"])
def test_any_other_table_is_shown_plainly(root: Path, file: str) -> None:
    (root / "benchmarks" / "pages").mkdir(parents=True)
    (root / file).write_text("<!-- table:toy -->\n<!-- /table:toy -->\n")
    (root / "README.md").unlink()
    results = {("a", n): {"p50_us": {"bare": 10.5 + n}, "passed": n == 0, "name": "x|y", "list": [1]} for n in range(2)}
    fill(root, results, "toy")
    assert render.main(["--root", str(root)]) == 0
    lines = (root / file).read_text().splitlines()
    assert lines[1] == "| seed | name | p50_us.bare | passed | seconds |"
    assert lines[3].startswith(r"| 0 | x\|y | 10.5 | yes | ")
    assert lines[4].startswith(r"| 1 | x\|y | 11.5 | no | ")


def test_a_table_without_records_says_so(root: Path) -> None:
    assert "<!-- table:main_job -->\n_No record yet._\n<!-- /table:main_job -->" in page(root)[1]


@pytest.mark.parametrize(
    "broken",
    [
        "<!-- table:main_job -->\nno end",
        "<!-- /table:main_job -->\n<!-- table:main_job -->\n",
        "<!-- table:a -->\n<!-- /table:b -->\n",
    ],
)
def test_a_lonely_marker_is_told(root: Path, broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "README.md").write_text(broken)
    assert page(root) == (2, broken)
    assert "lacks its other half" in capsys.readouterr().err


def test_a_file_that_is_no_record_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files.write_json(root / "benchmarks" / "results" / "main_job" / "x.json", {"config": {}})
    assert page(root)[0] == 2
    assert "is not a record of the grid" in capsys.readouterr().err


def test_the_committed_pages_say_what_the_records_say() -> None:
    assert render.main(["--check"]) == 0
