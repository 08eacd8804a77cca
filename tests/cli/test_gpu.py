"""The whole trip with training and audits on a CUDA device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from endings import call
from world import World

pytestmark = pytest.mark.gpu


def test_a_run_on_a_gpu(world: World, tmp_path: Path) -> None:
    ended = call(*world.words("--device", "cuda", "--controls", "all", "--bench", "smoke", out=tmp_path / "run"))
    assert ended.code == 0, ended.err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["training"]["robustkd"]["device"] == "cuda:0"
    rows = {row["stage"]: row for row in record["rows"]}
    assert rows["teacher"]["acc"] == {"hits": 150, "total": 150}
    assert rows["teacher"]["triggers"][0]["asr"] == {"hits": 125, "total": 125}
    assert abs(rows["student fp32"]["acc"]["hits"] - rows["model.onnx"]["acc"]["hits"]) <= 1
    assert call(*world.words("--device", "cuda", "--controls", "all", out=tmp_path / "run")).code == 0


def test_canaries_and_a_forecast_on_a_gpu(world: World, tmp_path: Path) -> None:
    words = ["compress", world.teacher, "--data", world.train, "--student", "resnet8-w4", "--device", "cuda"]
    assert call(*words, "--dry-run", "--json").json["forecast"]["minutes"]["robustkd"] > 0
    ended = call(*words, "-o", "train.epochs=1", "-o", "distill.detox_steps=2", "--out", tmp_path / "run", "--quiet")
    assert ended.code == 0, ended.err
