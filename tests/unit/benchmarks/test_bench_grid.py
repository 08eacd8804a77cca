"""The grid runner, on toy cells in real processes: kills, sharing, failures, time."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import grid
from benchmarks.grid import Cell, Table
from edgekd import files

TOY = """
import os, sys, time
from benchmarks.grid import Table, main

def cells():
    for n in range(int(os.environ.get("CELLS", "4"))):
        yield {"table": "toy", "n": n}
    if os.environ.get("TWICE"):
        yield {"n": 0, "table": "toy"}

def run(config, folder):
    with open(os.environ["LOG"], "a") as log:
        log.write("%d\\n" % config["n"])
    if str(config["n"]) == os.environ.get("FAILS"):
        raise ValueError("the toy broke")
    if str(config["n"]) == os.environ.get("NAN"):
        return {"value": float("nan")}
    steps = folder / "steps"
    with steps.open("a") as kept:
        while kept.tell() < 5:
            kept.write("x")
            kept.flush()
            time.sleep(float(os.environ.get("STEP", "0")))
    return {"double": 2 * config["n"], "threads": os.environ.get("OMP_NUM_THREADS")}

def forecast(config):
    return 1.0 + config["n"]

if __name__ == "__main__":
    sys.exit(main(Table("toy", cells, run, forecast, resumable="GOES_ON" in os.environ)))
"""
Start = Callable[..., "subprocess.Popen[str]"]


class Toy:
    def __init__(self, start: Start, folder: Path) -> None:
        self.script, self.log, self.results = folder / "toy.py", folder / "log", folder / "results" / "toy"
        self.folder = folder
        self.script.write_text(TOY)
        self._start = start

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return self._start(self.script, *arguments, LOG=str(self.log), **environment)

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        with self.start(*arguments, **environment) as process:
            out, _ = process.communicate(timeout=60)
        return process.returncode, out

    def ran(self) -> list[int]:
        """The cells that were begun, in order."""
        return [int(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def records(self) -> dict[int, dict[str, Any]]:
        found = [json.loads(path.read_text()) for path in self.results.glob("*.json")]
        return {record["config"]["n"]: record for record in found}

    def cell(self, n: int) -> Cell:
        return Cell(Table("toy", lambda: (), lambda config, folder: None), {"n": n, "table": "toy"}, self.folder)


@pytest.fixture
def toy(start: Start, tmp_path: Path) -> Toy:
    return Toy(start, tmp_path)


def test_every_cell_runs_once_and_leaves_a_record(toy: Toy) -> None:
    code, out = toy.run()
    assert code == 0
    assert "toy: 4 of 4 cells done, 0 failed." in out
    assert toy.run()[0] == 0
    assert toy.ran() == [0, 1, 2, 3]
    record = toy.records()[3]
    assert (toy.results / f"{toy.cell(3).id}.json").exists()
    assert record["result"]["double"] == 6
    assert (record["schema"], record["table"], record["attempts"]) == (1, "toy", 1)
    assert record["config"] == {"n": 3, "table": "toy"}
    assert set(record) == {
        *("schema", "table", "config", "commit", "commits", "dirty", "hardware", "versions", "threads"),
        *("load_average", "result", "seconds", "seconds_whole", "attempts"),
    }
    assert set(record["hardware"]) == {"cpu", "cores", "cores_usable", "memory_mb", "machine", "gpu"}
    assert record["versions"]["numpy"]
    written = json.dumps(record)
    assert socket.gethostname() not in written
    assert str(toy.folder) not in written


def test_a_cell_is_named_by_its_config_alone(toy: Toy) -> None:
    table = Table("toy", lambda: (), lambda config, folder: None)
    ids = {Cell(table, config, toy.folder).id for config in ({"a": 1, "b": (2,)}, {"b": [2], "a": 1})}
    assert len(ids) == 1
    assert Cell(table, {"a": 2, "b": [2]}, toy.folder).id not in ids


def test_a_killed_cell_goes_on_where_it_stood(toy: Toy) -> None:
    process = toy.start("--only", '"n":0', STEP="0.2")
    steps = toy.cell(0).folder / "work" / "steps"
    while not steps.exists() or steps.stat().st_size < 2:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert toy.records() == {}
    assert toy.cell(0).state == "started"
    assert toy.run("--only", '"n":0')[0] == 0
    assert steps.read_text() == "xxxxx"
    record = toy.records()[0]
    assert (record["attempts"], record["seconds_whole"]) == (2, False)
    assert record["commits"] == [record["commit"] or "unknown"]


@pytest.mark.parametrize("before", [{"trees": "another"}, {}])
def test_what_another_edgekd_began_is_begun_anew(toy: Toy, before: dict[str, str]) -> None:
    cell = toy.cell(0)
    for note in ({"load_average": 1.0, "commit": "old", **before}, {"seconds": 600.0}):
        files.append_line(cell.attempts, json.dumps(note))
    steps = cell.folder / "work" / "steps"
    steps.parent.mkdir()
    steps.write_text("old")
    assert toy.run("--only", '"n":0')[0] == 0
    assert steps.read_text() == "xxxxx"
    record = toy.records()[0]
    assert record["attempts"] == 1
    assert record["seconds"] < 60
    assert "old" not in record["commits"]


@pytest.mark.parametrize("place", ["before_write", "before_rename", "after_rename"])
def test_a_kill_while_the_record_is_written_leaves_all_or_nothing(toy: Toy, place: str) -> None:
    code, _ = toy.run(EDGEKD_FAULT=f"record.{place}:2:kill")
    assert code == -signal.SIGKILL
    assert set(toy.records()) == ({0, 1} if place == "after_rename" else {0})
    assert toy.run()[0] == 0
    assert set(toy.records()) == {0, 1, 2, 3}
    assert not list(toy.folder.rglob("cache/**/*.part"))


def test_processes_share_the_cells(toy: Toy) -> None:
    processes = [toy.start(STEP="0.02", CELLS="8") for _ in range(3)]
    for process in processes:
        process.communicate(timeout=60)
    assert sorted(toy.ran()) == list(range(8))
    assert set(toy.records()) == set(range(8))


def test_one_command_may_start_several_processes_of_one_thread(toy: Toy) -> None:
    code, out = toy.run("--processes", "2", STEP="0.02", OMP_NUM_THREADS="7")
    assert code == 0
    assert out.count("4 of 4 cells done") == 1
    assert sorted(toy.ran()) == [0, 1, 2, 3]
    assert {record["result"]["threads"] for record in toy.records().values()} == {"1"}


def test_a_cell_that_another_process_has_is_passed_over(toy: Toy) -> None:
    with files.lock(toy.cell(1).folder):
        code, out = toy.run()
    assert code == 0
    assert f"{toy.cell(1).id}  busy" in out
    assert set(toy.records()) == {0, 2, 3}


def test_a_failure_is_kept_apart_and_tried_again_when_asked(toy: Toy) -> None:
    code, out = toy.run(FAILS="1")
    assert code == 1
    assert "failed: ValueError: the toy broke  (--retry runs it again)" in out
    assert set(toy.records()) == {0, 2, 3}
    failure = json.loads(toy.cell(1).failure.read_text())
    assert failure["config"]["n"] == 1
    assert "Traceback" in failure["traceback"]
    assert toy.run()[0] == 1
    assert toy.ran() == [0, 1, 2, 3]
    assert toy.run("--retry", FAILS="1")[0] == 1
    assert toy.run("--retry")[0] == 0
    assert toy.ran() == [0, 1, 2, 3, 1, 1]
    assert not toy.cell(1).failure.exists()


def test_a_result_that_is_no_json_is_a_failure(toy: Toy) -> None:
    assert toy.run(NAN="2")[0] == 1
    assert set(toy.records()) == {0, 1, 3}
    assert "ValueError" in json.loads(toy.cell(2).failure.read_text())["error"]


def test_no_cell_starts_that_would_end_too_late(toy: Toy) -> None:
    code, out = toy.run("--minutes", "2.5")
    assert code == 0
    assert toy.ran() == [0, 1]
    assert f"{toy.cell(2).id}  not started: about 3.0 min, 2.5 left" in out


def test_a_cell_longer_than_the_time_is_done_in_pieces_where_it_can_go_on(toy: Toy) -> None:
    cell, pieces = toy.cell(3), 0
    while not cell.record.exists():
        code, out = toy.run("--minutes", "0.01", "--only", '"n":3', STEP="0.3", GOES_ON="1")
        assert code == 0
        assert f"{cell.id}  starts  {cell.text}  (about " in out
        assert "will be stopped and goes on next time)" in out
        pieces += 1
        assert pieces < 10
        if not cell.record.exists():
            assert f"{cell.id}  stopped after 0.01 min: goes on next time" in out
            assert cell.state == "started"
    record = toy.records()[3]
    assert (record["attempts"], record["seconds_whole"]) == (pieces, True)
    assert pieces > 1
    notes = [json.loads(line) for line in cell.attempts.read_text().splitlines()]
    assert record["seconds"] == pytest.approx(sum(note.get("seconds", 0) for note in notes))
    assert record["seconds"] >= 0.6 * (pieces - 1)
    assert (cell.folder / "work" / "steps").read_text() == "xxxxx"
    assert f"about {record['seconds'] / 60 / 4:.1f} minutes" in toy.run("--forecast", "--only", '"n":0', GOES_ON="1")[1]


def test_time_that_a_stopped_cell_has_had_is_taken_off_the_forecast(toy: Toy) -> None:
    cell = toy.cell(0)
    for line in ('{"load_average":1.0}', '{"seconds":30.0}', '{"load_average":1.0}', '{"seco'):
        files.append_line(cell.attempts, line)
    assert cell.spent() == (2, 30.0, False)
    only = ("--forecast", "--only", '"n":0')
    assert "about 0.5 minutes" in toy.run(*only, GOES_ON="1")[1]
    assert "about 1.0 minutes" in toy.run(*only)[1]


def test_records_from_before_attempts_were_added_up_are_read(toy: Toy) -> None:
    toy.run("--only", '"n":0')
    record = files.read_json(toy.cell(0).record)
    del record["seconds_whole"]
    files.write_json(toy.cell(0).record, {**record, "attempts": 4, "seconds": 6000.0})
    assert "3 of 4 cells left, about 9.0 minutes" in toy.run("--forecast", GOES_ON="1")[1]


def test_a_failed_cell_that_is_stopped_when_tried_again_goes_on(toy: Toy) -> None:
    cell = toy.cell(0)
    toy.run("--only", cell.id, FAILS="0")
    assert cell.state == "failed"
    code, out = toy.run("--only", cell.id, "--retry", "--minutes", "0.005", STEP="5", GOES_ON="1")
    assert (code, cell.state) == (0, "started")
    assert "stopped after" in out


def test_a_stop_that_was_swallowed_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "AGAIN", 0.05)
    before, swallowed = signal.getsignal(signal.SIGALRM), []

    def cell() -> None:
        with grid._stopped_after(0.05):
            with contextlib.suppress(grid.Stopped):
                time.sleep(5)
            swallowed.append(True)
            time.sleep(5)

    with pytest.raises(grid.Stopped):
        cell()
    assert swallowed
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == before


def test_finished_cells_put_the_forecast_right(toy: Toy) -> None:
    assert "4 of 4 cells left, about 10.0 minutes" in toy.run("--forecast")[1]
    toy.run("--only", '"n":0', STEP="0.3")
    seconds = toy.records()[0]["seconds"]
    assert seconds >= 1.5
    assert f"3 of 4 cells left, about {9 * seconds / 60:.1f} minutes" in toy.run("--forecast")[1]
    toy.run("--minutes", "2")
    assert toy.ran() == [0, 1, 2, 3]


def test_cells_that_records_may_add_are_forecast_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def cells() -> list[dict[str, int]]:
        return [{"n": 0}]

    def more() -> list[dict[str, int]]:
        return [{"n": 0}, {"n": 1}, {"n": 2}]

    table = grid.Table("toy", cells, lambda config, folder: None, lambda config: 2.0 + config["n"], may_come=more)
    grid.Grid(table, tmp_path).show_forecast()
    assert capsys.readouterr().out.splitlines() == [
        "1 of 1 cells left, about 2.0 minutes on one process; 0 failed.",
        "Up to 2 more, about 7.0 minutes, hang on what records say.",
    ]
    grid.Grid(grid.Table("toy", cells, lambda config, folder: None), tmp_path).show_forecast()
    assert "Up to" not in capsys.readouterr().out


def test_the_list_shows_every_cell_and_its_state(toy: Toy) -> None:
    toy.run("--only", '"n":0')
    toy.run("--only", toy.cell(1).id[:8], FAILS="1")
    code, out = toy.run("--list")
    assert code == 0
    states = [line.split()[:2] for line in out.splitlines()]
    assert states == [[toy.cell(n).id, state] for n, state in enumerate(["done", "failed", "to", "to"])]


def test_what_makes_no_sense_is_told(toy: Toy) -> None:
    assert toy.run("--only", "nothing like it") == (2, "No cell of toy matches 'nothing like it'; --list shows them.\n")
    code, out = toy.run(TWICE="1")
    assert (code, out) == (2, "The table toy has two cells with the same config.\n")


def test_stopping_the_parent_stops_its_processes(toy: Toy) -> None:
    process = toy.start("--processes", "2", STEP="5")
    while len(toy.ran()) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    for n in (0, 1):
        with files.lock(toy.cell(n).folder):  # held by nobody any more
            assert toy.cell(n).state == "started"
