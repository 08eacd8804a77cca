"""Atomic writes, faults at named points, bounded JSON and the folder's lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from edgekd_device import files
from edgekd_device.errors import EnvironmentFault, UnsafeInput, UsageError

POINTS = ("before_write", "before_rename", "after_rename")


@pytest.fixture(autouse=True)
def fresh_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_reached", {})


def test_writes_make_folders_and_leave_nothing_else(tmp_path):
    path = files.write_text(tmp_path / "a" / "b.txt", "é")
    assert path.read_bytes() == b"\xc3\xa9"
    assert path.stat().st_mode & 0o777 == 0o644
    files.write_json(path, {"b": 1, "a": [None]})
    assert path.read_text() == '{\n "a": [\n  null\n ],\n "b": 1\n}\n'
    assert files.canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]
    assert files.sha256_file(path) == files.sha256_bytes(path.read_bytes())


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a", float("nan"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("action", ["enospc", "eio"])
def test_a_full_disk_leaves_what_was_there(point, action, tmp_path, monkeypatch):
    path = files.write_text(tmp_path / "a", "old")
    monkeypatch.setenv("EDGEKD_FAULT", f"thing.{point}:2:{action}")
    files.write_text(tmp_path / "b", "first", "thing")
    files.write_text(tmp_path / "b", "other", "unnamed")
    with pytest.raises(EnvironmentFault, match="Could not write"):
        files.write_text(path, "new", "thing")
    assert path.read_text() == ("new" if point == "after_rename" else "old")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(("action", "number"), [("kill", signal.SIGKILL), ("term", signal.SIGTERM)])
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_leaves_the_old_or_the_new(point, action, number, tmp_path):
    path = files.write_text(tmp_path / "a", "old")
    code = f"from edgekd_device import files; files.write_text({str(path)!r}, 'new', 'thing')"
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "EDGEKD_FAULT": f"thing.{point}:1:{action}"}, check=False
    )
    assert ended.returncode == -number
    assert path.read_text() == ("new" if point == "after_rename" else "old")
    files.remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_the_same_faults_in_this_process(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append((process, number)))
    for action, number in (("kill", signal.SIGKILL), ("term", signal.SIGTERM)):
        monkeypatch.setattr(files, "_reached", {})
        monkeypatch.setenv("EDGEKD_FAULT", f"here:1:{action}")
        files.point("here")
        assert sent.pop() == (os.getpid(), number)


def test_journals_grow_line_by_line(tmp_path, monkeypatch):
    path = tmp_path / "there" / "journal"
    files.append_line(path, "one")
    files.append_line(path, "two")
    assert path.read_text() == "one\ntwo\n"
    monkeypatch.setenv("EDGEKD_FAULT", "journal.before_append:1:enospc")
    with pytest.raises(EnvironmentFault, match="Could not write"):
        files.append_line(path, "three")


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "Cannot read"), ('{"a":1,"a":2}', "twice"), ("[Infinity]", "not a number"), ("[1,2,3]", "larger than")],
)
def test_bad_json(text, words, tmp_path):
    (tmp_path / "a").write_text(text)
    with pytest.raises(UsageError, match=words):
        files.read_json(tmp_path / "a", limit=6 if "1,2" in text else 100)


def test_json_of_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(UsageError, match="a pipe or a device"):
        files.read_json(tmp_path / "a")
    with pytest.raises(OSError, match="a pipe or a device"):
        files.sha256_file(tmp_path / "a")
    with pytest.raises(UsageError, match="Is a directory"):
        files.read_json(tmp_path)


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"\\uDFFF": 1}', '{"a": 1e999}', "[-1e999]"])
def test_what_could_not_be_written_again_is_not_read(text, tmp_path):
    (tmp_path / "a").write_text(text)
    with pytest.raises(UsageError, match="Cannot read"):
        files.read_json(tmp_path / "a")
    (tmp_path / "a").write_text('"\\ud83d\\ude00"')
    assert files.read_json(tmp_path / "a") == "\U0001f600"


@pytest.mark.parametrize("lead", [os.symlink, os.link, lambda target, name: os.mkfifo(name)])
def test_nothing_is_written_through_a_link(lead, tmp_path):
    precious, folder = tmp_path / "precious", tmp_path / "run"
    precious.write_text("mine")
    folder.mkdir()
    lead(precious, folder / ".lock")
    lead(precious, folder / "run.log")
    with pytest.raises(UnsafeInput, match="a link or not a plain file"):
        with files.lock(folder):
            raise AssertionError("held")
    with pytest.raises(UnsafeInput, match="a link or not a plain file"):
        files.append_line(folder / "run.log", "one line")
    assert precious.read_text() == "mine"


def test_json_read_back_and_absent(tmp_path):
    files.write_json(tmp_path / "a", {"x": [1, 2.5, "é"]})
    assert files.read_json(tmp_path / "a") == {"x": [1, 2.5, "é"]}
    with pytest.raises(UsageError, match="No such file"):
        files.read_json(tmp_path / "b")


def test_one_process_holds_a_folder(tmp_path):
    with files.lock(tmp_path / "run"):
        with pytest.raises(EnvironmentFault, match=f"in use by process {os.getpid()}"):
            with files.lock(tmp_path / "run"):
                raise AssertionError("two holders")
    with files.lock(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text() == str(os.getpid())
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="Cannot use"):
        with files.lock(tmp_path / "file"):
            raise AssertionError("a lock on a file")


def test_leftovers_that_vanish_meanwhile_are_nobodys_fault(tmp_path, monkeypatch):
    (tmp_path / ".a.x.part").mkdir()
    files.remove_leftovers(tmp_path)
    assert (tmp_path / ".a.x.part").is_dir()
