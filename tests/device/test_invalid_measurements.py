"""A measurement that is not valid ends with exit code 1 and its reasons, on the board and on the host."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from bundles import reference, write_bundle

from edgekd.cli import run
from edgekd_device import gates, harness, latency
from edgekd_device.__main__ import main
from edgekd_device.errors import GateFailed
from edgekd_device.latency import Level
from edgekd_device.metrics import Rate
from edgekd_device.records import DeviceReport

REASONS = (
    "model.u8s8.onnx: ACC is 100.00%, the host found 66.67%; "
    "model.u8s8.onnx: ASR bright is 100.00%, the host found 50.00%"
)
MESSAGE = (
    f"The measurement is not valid, so none of its figures may be quoted: {REASONS}. "
    "Fix what is named here, then measure again.\n"
)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latency.LEVELS, "smoke", Level("smoke", 1, 0.02, 1, 1, 0.01, 0.01, 0.0, 4))


@pytest.fixture
def unlike(tmp_path: Path) -> Path:
    """A bundle whose model has a higher ACC and ASR than the host found."""
    row = reference("model.u8s8.onnx", "int8")
    (score,) = row.triggers
    row = dataclasses.replace(row, acc=Rate(20, 30), triggers=(dataclasses.replace(score, asr=Rate(10, 20)),))
    return write_bundle(tmp_path, references={"model.u8s8.onnx": row})


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_on_the_board(unlike, capsys, options):
    assert main(["run", str(unlike), *options]) == 1
    out, err = capsys.readouterr()
    assert err == "edgekd-device: " + MESSAGE
    value = json.loads((unlike / "device-report.json").read_text())
    assert value["valid"] is False
    assert json.loads(out) == value if options else "ASR 100.00%" in out


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_on_the_host(unlike, capsys, options):
    kept = unlike.parent / "report.json"
    assert run(["bench", str(unlike), "--out", str(kept), *options]) == 1
    out, err = capsys.readouterr()
    assert err == "edgekd: " + MESSAGE
    assert json.loads(kept.read_text())["valid"] is False
    assert json.loads(out)["valid"] is False if options else "NOT VALID" in out


def test_whoever_measures_on_the_way_gets_the_report(unlike):
    """`edgekd compress` calls the harness and must not end there: that a report is not valid is a value of it."""
    report = harness.run(unlike)
    assert isinstance(report, DeviceReport)
    assert not report.valid
    with pytest.raises(GateFailed, match="not valid"):
        gates.refuse_invalid(report)


def test_a_valid_one_is_not_refused(pristine):
    gates.refuse_invalid(harness.run(pristine))
