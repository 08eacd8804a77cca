"""The benchmark of engines: what it says of them on the fake TensorRT, which computes with onnxruntime, and without any."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import trt_models
from bundles import COUNT, TARGET, reference, write_bundle

from benchmarks import engines, engines_table
from benchmarks.grid import main
from edgekd_device import latency
from edgekd_device.latency import Level
from edgekd_device.metrics import Rate

SHORT = Level("smoke", 1, 0.02, 1, 1, 0.01, 0.01, 0.0, 4)
BOARD = dataclasses.replace(TARGET, runtime="tensorrt", ships="model.qdq.onnx", files=trt_models.FLAVOURS)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latency.LEVELS, "smoke", SHORT)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    models = {name: trt_models.model(name) for name in trt_models.FLAVOURS}
    return write_bundle(tmp_path, models, target=BOARD, references={})


def test_every_engine_is_held_against_the_host(bundle, tensorrt):
    tensorrt()
    found = engines.measured(bundle, "smoke")
    assert found["passed"], found
    assert found["tensorrt"] == "10.3.0"
    assert set(found["files"]) == set(trt_models.FLAVOURS)
    every = {"hits": COUNT, "total": COUNT}
    for file in found["files"].values():
        assert file["acc"] == {"engine": every, "host": every}
        assert file["asr"]["bright"]["engine"] == file["asr"]["bright"]["host"]
        assert file["agreement"] == every
        assert file["engine"]["plan_sha256"]
        assert file["ms"]["e2e"]["p50_ms"] > 0
        assert file["ms"]["gpu"]["p50_ms"] > 0


@pytest.mark.parametrize(
    ("acc", "asr", "agreement", "passed"),
    [
        (30, 20, 1000, True),
        (29, 20, 1000, False),  # 3.3 points of ACC
        (30, 19, 1000, True),  # an ASR that falls is no alarm
        (30, 20, 990, True),
        (30, 20, 989, False),
    ],
)
def test_what_an_engine_may_differ_by(acc, asr, agreement, passed):
    host = reference("model.onnx", "fp32")
    score = dataclasses.replace(host.triggers[0], asr=Rate(asr, 20))
    engine = dataclasses.replace(host, acc=Rate(acc, 30), triggers=(score,))
    assert engines.near(engine, host, Rate(agreement, 1000)) is passed
    fewer = dataclasses.replace(host, triggers=(dataclasses.replace(score, asr=Rate(asr - 1, 20)),))
    assert engines.near(engine, fewer, Rate(1000, 1000)) is False, "an ASR that rises is"


def test_without_tensorrt_every_cell_fails_with_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(engines.TABLE, ["--folder", str(tmp_path)]) == 1
    said = [line for line in capsys.readouterr().out.splitlines() if " failed: " in line]
    assert len(said) == len(list(engines.cells()))
    for line in said:
        assert "EnvironmentFault: TensorRT is not installed here, or does not load." in line
    assert not list(tmp_path.rglob("bundle")), "said before anything is made"


def test_the_table_says_what_is_not_valid():
    rate, low = {"hits": 9000, "total": 10_000}, {"hits": 90, "total": 9000}
    file = {
        "precision": "int8",
        "acc": {"engine": rate, "host": rate},
        "asr": {"grid": {"engine": low, "host": low}},
        "agreement": rate,
        "ms": {"e2e": {"p50_ms": 0.5, "p99_ms": None}, "gpu": None},
        "engine": {"typing": "strong"},
        "passed": True,
    }
    result = {
        "valid": False,
        "invalid_reasons": ["too hot"],
        "tensorrt": "10.16.1",
        "files": {"model.qdq.fp16.onnx": file},
    }
    config = {"network": "net.tar", "level": "standard"}
    about = {"commit": "c0ffee", "dirty": False, "hardware": {}, "versions": {}, "load_average": 1.0}
    made = engines_table.tables([{**about, "config": config, "result": result}])
    row = "| net | standard | 10.16.1 | model.qdq.fp16.onnx | strong | 90.00 (90.00) | 1.00 (1.00) | 90.00 | 0.500 |"
    assert row + " not measured | not measured | **no** |" in made
    assert "- net, standard, not valid: too hot" in made
