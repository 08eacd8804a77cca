"""Killed twice, then the same command: the same bytes, and the training goes on from its checkpoint.

The whole table, every stage and random times on the demo's teacher, is benchmarks/kills.py.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

from endings import Ended, call, spawn
from world import World

SHIPPED = ("student.safetensors", "bundle/model.onnx", "bundle/model.u8s8.onnx", "bundle/manifest.json")


def test_killed_twice_it_ends_with_the_same_bytes(finished: tuple[Path, Ended], world: World, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = world.words("--bench", "none", out=folder)
    # two epochs of the control, two chunks of detoxification, and then between a checkpoint and its journal
    killed = spawn(*words, EDGEKD_FAULT="training.notes.after_rename:5:kill")
    assert killed.code == -signal.SIGKILL
    assert (folder / "work" / "train-robustkd").exists()
    assert not (folder / "work" / "train-robustkd" / "done.json").exists()
    killed = spawn(*words, EDGEKD_FAULT="onnx.before_rename:2:kill")
    assert killed.code == -signal.SIGKILL
    assert not (folder / "work" / "export" / "model.u8s8.onnx").exists()
    ended = call(*words)
    assert ended.code == 0, ended.err
    for name in SHIPPED:
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes(), name
    record = json.loads((folder / "run.json").read_text())
    assert record["training"]["robustkd"]["resumed_at"] == 1
    assert not list(folder.rglob("*.part"))
