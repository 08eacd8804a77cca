"""A table on a real Ray cluster of two workers on this machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import cluster
from edgekd.errors import EnvironmentFault

ROOT = Path(__file__).resolve().parents[3]
TABLE = """
import os, sys, time
sys.path.insert(0, {root!r})
from benchmarks.grid import Table, main

def run(config, folder):
    if config["n"] == 3:
        raise ValueError("the third is a bad one")
    time.sleep(1.5)
    return {{"square": config["n"] ** 2, "pid": os.getppid()}}

if __name__ == "__main__":
    sys.exit(main(Table("squares", lambda: ({{"n": n}} for n in range(5)), run)))
"""


@pytest.mark.slow
def test_two_workers_share_a_table(tmp_path):
    pytest.importorskip("ray", reason="the extra [cluster] is not installed")
    script = tmp_path / "squares.py"
    script.write_text(TABLE.format(root=str(ROOT)))
    command = [sys.executable, str(script), "--ray", "local", "--processes", "2", "--folder", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert ended.returncode == 1, ended.stderr  # one cell failed
    assert "the third is a bad one" in ended.stdout
    records = [json.loads(file.read_text()) for file in (tmp_path / "results" / "squares").glob("*.json")]
    assert sorted(record["result"]["square"] for record in records) == [0, 1, 4, 16]
    assert len({record["result"]["pid"] for record in records}) == 2, "one worker did it all"
    again = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert "4 of 5 cells done, 1 failed" in again.stdout


@pytest.mark.slow
def test_a_cluster_keeps_to_the_minutes_and_a_lost_task_ends_nothing(tmp_path):
    pytest.importorskip("ray", reason="the extra [cluster] is not installed")
    script = tmp_path / "squares.py"
    lost = 'if config["n"] == 1: os.kill(os.getppid(), 9)'
    script.write_text(TABLE.format(root=str(ROOT)).replace("    time.sleep(1.5)", f"    {lost}\n    time.sleep(1.5)"))
    command = [sys.executable, str(script), "--ray", "local", "--processes", "1", "--folder", str(tmp_path)]
    ended = subprocess.run([*command, "--minutes", "0"], capture_output=True, text=True, timeout=180)
    assert not list((tmp_path / "results").rglob("*.json")), ended.stdout
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert "lost: " in ended.stdout, ended.stderr
    assert len(list((tmp_path / "results" / "squares").glob("*.json"))) == 3


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'edgekd\[cluster\]'"):
        cluster.spread([], "local", 2)
