"""Killed twice, then the same command: the same bytes, and the training goes on from its checkpoint.

The whole table, every stage and random times on the demo's teacher, is benchmarks/kills.py.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from endings import Ended, spawn
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
    ended = spawn(*words)
    assert ended.code == 0, ended.err
    for name in SHIPPED:
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes(), name
    record = json.loads((folder / "run.json").read_text())
    assert record["training"]["robustkd"]["resumed_at"] == 1
    assert not list(folder.rglob("*.part"))


@pytest.mark.slow
def test_killed_while_int8_is_distilled_it_ends_with_the_same_bytes(world: World, tmp_path: Path) -> None:
    wanted = ("quantize.qad=always", "quantize.qad.steps=101", "quantize.qad.batch_size=16", "quantize.images=64")
    words = world.words("--bench", "none", *(word for setting in wanted for word in ("-o", setting)))
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert spawn(*words, "--out", whole).code == 0
    # two epochs of the control, two chunks of detoxification, two epochs of the student, and one of two rounds
    killed = spawn(*words, "--out", folder, EDGEKD_FAULT="training.notes.after_rename:7:kill")
    assert killed.code == -signal.SIGKILL
    assert not (folder / "work" / "quantize-u8s8" / "done.json").exists()
    assert spawn(*words, "--out", folder).code == 0
    for name in SHIPPED:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    logs = [json.loads((place / "run.json").read_text())["training"]["qad u8s8"] for place in (whole, folder)]
    assert logs[0]["method"] == logs[1]["method"]
    assert [log["resumed_at"] for log in logs] == [None, 1]
