"""Whose folder --out names: a user's files are never deleted, a run's own folder is known again however it ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekd import config, files
from edgekd.errors import UnsafeInput, UsageError
from edgekd.pipeline import mark
from edgekd.pipeline.folder import RunFolder


def settings(**changes: Any) -> config.RunConfig:
    return config.resolve(None, {"teacher": "teacher.pt", "data": "data.npz", **changes})


def product(folder: Path) -> dict[str, Any]:
    (folder / "product").write_text("made of care")
    return {"files": ["product"]}


def run(path: Path, **changes: Any) -> None:
    """A run of two stages."""
    with RunFolder(path).open(settings(**changes)) as folder:
        folder.stage("intake", {}, product)
        folder.claim()
        folder.stage("weave", {}, product)


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


FOREIGN = {
    "work/intake/precious.txt": "mine",
    "work/intake/key.json": '"not one of ours"',
    "work/done.json": "{}",
    "run.log": "mine",
    "inputs_backup/holiday.png": "mine",
    "inputs/test.npz": "mine",
    ".config.yaml.mine": "mine",
    "config.yaml": "a: 1",
    ".lock": "held by another program",
    ".edgekd-run.part": "mine",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_is_not_ours_because_a_name_in_it_is(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(FOREIGN[name])
    before = contents(tmp_path)
    for enter in (run, lambda path: RunFolder(path).reserve(settings())):
        with pytest.raises(UsageError, match="Choose another folder"):
            enter(tmp_path)
        assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["work", "bundle", "work/weave", "work/weave/inner"])
def test_a_folder_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    run(tmp_path / "run")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for mine in ("key.json", "done.json", ".mine.part", "model.onnx"):
        (elsewhere / mine).write_text("mine")
    before = contents(elsewhere)
    place = tmp_path / "run" / name
    if place.exists():
        place.rename(tmp_path / "away")
    place.symlink_to(elsewhere)
    with pytest.raises(UnsafeInput, match="is a link"):
        run(tmp_path / "run")
    assert contents(elsewhere) == before


@pytest.mark.parametrize("name", ["config.yaml", ".lock"])
def test_a_pipe_in_a_folder_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError):
        run(tmp_path)


@pytest.mark.parametrize("name", ["/dev/zero", "../../../outside", "pipe"])
def test_a_stage_stands_on_files_of_its_own(name: str, tmp_path: Path) -> None:
    run(tmp_path)
    done, folder = tmp_path / "work" / "weave" / "done.json", tmp_path / "work" / "weave"
    stored = files.read_json(done)
    os.mkfifo(folder / "pipe")
    files.write_json(done, {**stored, "result": {"forged": True}, "hashes": {name: "0" * 64}})
    with RunFolder(tmp_path).open(settings()) as opened:
        assert opened.stage("weave", {}, product) == {"files": ["product"]}


def test_what_a_user_put_where_a_stage_would_lie_is_kept(tmp_path: Path) -> None:
    RunFolder(tmp_path).reserve(settings())
    precious = tmp_path / "work" / "intake" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    with pytest.raises(UsageError, match=r"intake is not a stage of a run \(it holds precious\.txt\)"):
        run(tmp_path)
    assert precious.read_text() == "mine"
    precious.rename(tmp_path / "precious.txt")
    precious.parent.rmdir()
    precious.parent.write_text("a file")
    with pytest.raises(UsageError, match="intake is not a stage"):
        run(tmp_path)


@pytest.mark.parametrize("mistake", [UsageError, UnsafeInput])
def test_a_refused_run_takes_away_only_what_it_made(mistake: type[Exception], tmp_path: Path) -> None:
    def refused() -> None:
        with RunFolder(tmp_path).open(settings()) as folder:
            folder.stage("intake", {}, product)
            raise mistake("not this one")

    with pytest.raises(mistake):
        refused()
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}
    RunFolder(tmp_path).reserve(settings())
    kept = [tmp_path / "run.log", tmp_path / "work" / "mine" / "notes.txt"]
    for file in kept:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine\n")
    with pytest.raises(mistake):
        refused()
    assert [file.read_text().splitlines()[0] for file in kept] == ["mine", "mine"]
    assert not (tmp_path / "work" / "intake").exists()


def test_a_stage_half_cleared_by_a_kill_is_still_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    stage, removed = tmp_path / "work" / "weave", []
    real = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **_: (removed.append(path.name), real(path))[1])
    mark.clear(stage, ("key.json", "done.json"))
    assert removed[0] == "product"
    assert not list(stage.iterdir())


@pytest.mark.parametrize("gone", [(), ("config.yaml",)], ids=["claimed", "before the claim"])
def test_a_run_older_than_the_mark_goes_on(gone: tuple[str, ...], tmp_path: Path) -> None:
    run(tmp_path)
    for name in (mark.RUN, *gone):
        (tmp_path / name).unlink()
    before = (tmp_path / "run.log").read_text()
    run(tmp_path)
    assert (tmp_path / "run.log").read_text() == before  # nothing was done again
    assert mark.marked(tmp_path, mark.RUN)


def test_another_configuration_of_an_older_run_is_refused_untouched(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / mark.RUN).unlink()
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="other settings: seed"):
        run(tmp_path, seed=1)
    assert contents(tmp_path) == before


POINTS = (
    *("mark.before_write", "mark.before_rename", "mark.after_rename", "intake.key.before_write"),
    *("intake.key.before_rename", "intake.key.after_rename", "log.before_append", "intake.begin"),
    *("intake.done.before_rename", "intake.done.after_rename", "config.before_write", "config.before_rename"),
    *("config.after_rename", "weave.key.before_rename", "weave.begin", "weave.done.before_rename"),
)
KILLED = """
import os, sys
from pathlib import Path
from test_foreign_folders import run
for name in sys.argv[2:]:
    child = os.fork()
    if not child:
        os.environ["EDGEKD_FAULT"] = name + ":1:kill"
        run(Path(sys.argv[1]) / name)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 9, name
"""


def test_a_run_killed_anywhere_goes_on_with_the_same_command(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{KILLED}"]
        + [str(tmp_path), *POINTS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    for name in POINTS:
        run(tmp_path / name)
        assert files.read_json(tmp_path / name / "work" / "weave" / "done.json")["result"] == {"files": ["product"]}
        assert not list((tmp_path / name).rglob(".*.part"))
