"""`edgekd-device`: what it prints, its exit codes, and that a user's mistake is one line."""

from __future__ import annotations

import builtins
import dataclasses
import json
import os
import runpy
import sys

import numpy as np
import pytest
from bundles import TARGET, graph, replace_file, write_bundle
from PIL import Image

from edgekd_device import __main__ as device_command
from edgekd_device import environment, files, harness, latency, power
from edgekd_device.__main__ import main
from edgekd_device.latency import Level
from edgekd_device.records import DeviceReport

SHORT = Level("smoke", 1, 0.02, 1, 1, 0.01, 0.01, 0.0, 4)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latency.LEVELS, "smoke", SHORT)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("edgekd-device: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_info(pristine, capsys):
    assert main(["info", str(pristine)]) == 0
    out = capsys.readouterr().out
    assert "target    cpu (onnxruntime, int8, 1 thread(s))" in out
    assert "input     3 x 8 x 8" in out
    assert "classes   3: red, green, blue" in out
    assert "model.u8s8.onnx, 0.000 MB  <- ships" in out
    assert "trigger   bright (known)" in out
    assert "host      model.onnx  fp32  onnxruntime  ACC 100.00%" in out
    assert main(["info", str(pristine), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "model.u8s8.onnx"


def test_check(pristine, capsys):
    assert main(["check", str(pristine)]) == 0
    out = capsys.readouterr().out
    assert "ok: 4 files are whole, 30 probe images fit" in out
    assert "see --manifest-sha256" in out
    known = files.sha256_file(pristine / "manifest.json")
    assert main(["check", str(pristine), "--manifest-sha256", known]) == 0
    assert f"{known} (the one you named)" in capsys.readouterr().out
    assert main(["check", str(pristine), "--manifest-sha256", "1" * 64]) == 3
    assert "not the bundle you expect" in one_line(capsys)


def test_run_writes_its_report_into_the_bundle_which_stays_whole(tiny_bundle, capsys):
    assert main(["run", str(tiny_bundle)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "ASR 100.00% [83.89%, 100.00%], floor 5.00%  bright (known)" in out
    assert "p99 n/a" in out or "p99 0." in out
    assert "label flips 0.00%  as the host 100.00%" in out
    assert (
        "gate: answers of model.u8s8.onnx passed: as on the host on 30 of 30 images (100.00%) (the host's on 99%" in out
    )
    assert "energy: not measured" in out
    report = DeviceReport.from_json(files.read_json(tiny_bundle / "device-report.json"))
    assert [row.stage for row in report.rows] == ["model.onnx", "model.u8s8.onnx"]
    assert main(["check", str(tiny_bundle)]) == 0


def test_run_for_machines(tiny_bundle, tmp_path, capsys):
    out_file = tmp_path / "there" / "report.json"
    options = ["--runtime", "null", "--threads", "2", "--file", "model.onnx", "--json", "--out", str(out_file)]
    assert main(["run", str(tiny_bundle), *options]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == json.loads(out_file.read_text())
    assert value["rows"][0]["latency"]["threads"] == 2


def test_run_shows_everything_that_was_measured(tiny_bundle, capsys, monkeypatch):
    found = harness.run(tiny_bundle, runtime="null")
    full = dataclasses.replace(
        found,
        throughput=({"batch": 4.0, "samples_per_s": 1234.5},),
        power={"j_per_inference": 0.002, "source": "ina3221"},
        environment={"warnings": ["the machine was busy"]},
    )
    monkeypatch.setattr(harness, "run", lambda *a, **k: full)
    assert main(["run", str(tiny_bundle)]) == 0
    out = capsys.readouterr().out
    assert "ACC not measured" in out
    assert "batch 4: 1234.5 images/s" in out
    assert "energy: 2.000 mJ per inference (ina3221)" in out
    assert "warning: the machine was busy" in out


def test_run_keeps_raw_times_beside_its_report(tiny_bundle, capsys, monkeypatch):
    monkeypatch.setitem(latency.LEVELS, "smoke", dataclasses.replace(SHORT, publishable=True, multistream=0.02))
    monkeypatch.setattr(latency, "min_queries", lambda over, fraction, confidence=0.99: 1)
    assert main(["run", str(tiny_bundle)]) == 0
    out = capsys.readouterr().out
    assert "MultiStream(8): p99 at most " in out
    assert (
        "gate: heat soak not measured: no thermal zone can be read (hottest zone moved less than 1 °C in 60 s)" in out
    )
    assert "raw times: " in out
    report = DeviceReport.from_json(files.read_json(tiny_bundle / "device-report.json"))
    times = tiny_bundle / "device-report.times.npz"
    assert report.raw_times == {"file": times.name, "sha256": files.sha256_file(times)}
    assert main(["check", str(tiny_bundle)]) == 0


def test_run_shows_progress_on_a_terminal(tiny_bundle, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["run", str(tiny_bundle)]) == 0
    err = capsys.readouterr().err
    assert "model.onnx ACC  30/30" in err
    assert "model.u8s8.onnx latency  2/2  p50_ms 0." in err
    assert err.endswith("\r\033[K")


def test_a_report_that_cannot_be_written(tiny_bundle, capsys):
    (tiny_bundle.parent / "file").write_text("")
    assert main(["run", str(tiny_bundle), "--out", str(tiny_bundle.parent / "file" / "report.json")]) == 4
    assert "Could not write" in one_line(capsys)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--level", "smok"], 2, "Did you mean 'smoke'"),
        (["--runtime", "tensorrt"], 4, "sudo apt install nvidia-jetpack"),
        (["--runtime", "cuda"], 2, "no runtime 'cuda'"),
        (["--threads", "0"], 2, "--threads must be 1 or more"),
        (["--file", "x.onnx"], 2, "no model 'x.onnx'"),
    ],
)
def test_mistakes_in_run(options, code, words, tiny_bundle, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["run", str(tiny_bundle), *options]) == code
    assert words in one_line(capsys)
    assert not (tiny_bundle / "device-report.json").exists()


def test_build(pristine, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["build", str(pristine)]) == 0
    assert "nothing to build" in capsys.readouterr().out
    target = dataclasses.replace(TARGET, runtime="tensorrt")
    assert main(["build", str(write_bundle(tmp_path, target=target))]) == 4
    assert "--runtime onnxruntime" in one_line(capsys)


@pytest.fixture
def picture(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[..., 1] = 200
    Image.fromarray(pixels).save(tmp_path / "green.png")
    return str(tmp_path / "green.png")


def test_predict_names_classes(pristine, picture, capsys):
    assert main(["predict", str(pristine), picture, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("%  green")
    assert main(["predict", str(pristine), picture, "--json", "--threads", "1", "--runtime", "onnxruntime"]) == 0
    guesses = json.loads(capsys.readouterr().out)
    assert [guess["name"] for guess in guesses] == ["green", "red", "blue"]
    assert sum(guess["probability"] for guess in guesses) == pytest.approx(1)
    assert guesses[0]["probability"] == pytest.approx(1 / (1 + 2 * np.exp(-10 * 200 / 255)), rel=1e-4)


def test_mistakes_in_predict(pristine, tiny_bundle, picture, tmp_path, capsys):
    assert main(["predict", str(pristine), str(tmp_path / "none.jpg")]) == 2
    assert "no picture" in one_line(capsys)
    assert main(["predict", str(pristine), str(pristine / "manifest.json")]) == 2
    assert "not a PNG or JPEG" in one_line(capsys)
    assert main(["predict", str(pristine), picture, "--top", "0"]) == 2
    assert "--top" in one_line(capsys)
    Image.new("L", (4_000_000, 1)).save(tmp_path / "thin.png")
    assert main(["predict", str(pristine), str(tmp_path / "thin.png")]) == 2
    assert "thin.png is 4000000 x 1" in one_line(capsys)
    Image.new("RGBA", (20, 30), (0, 200, 0, 0)).save(tmp_path / "clear.png")
    assert main(["predict", str(pristine), str(tmp_path / "clear.png")]) == 2
    assert "clear.png has transparent pixels" in one_line(capsys)
    replace_file(tiny_bundle, "model.u8s8.onnx", graph(classes=2))
    assert main(["predict", str(tiny_bundle), picture]) == 2
    assert "no finite value per class" in one_line(capsys)


def test_doctor(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["doctor"]) == 0
    assert "onnxruntime" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["python"]

    class Source:
        name, rails = "ina3221", ("VDD_IN",)

    monkeypatch.setattr(power, "find", Source)
    monkeypatch.setattr(environment, "version_of", lambda package: None)
    monkeypatch.setattr(environment, "faults", lambda found: {"clocks not pinned": "warning"})
    assert main(["doctor"]) == 4
    out, err = capsys.readouterr()
    assert "onnxruntime          not available" in out
    assert "ina3221 (VDD_IN)" in out
    assert "warning: clocks not pinned" in out
    assert "pip install numpy onnxruntime" in err


def test_doctor_on_a_jetson_asks_for_what_its_bundles_need(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    board = {**environment.collect(), "l4t": "R36 (release), REVISION: 4.3"}
    monkeypatch.setattr(environment, "collect", lambda: board)
    assert main(["doctor"]) == 4  # though onnxruntime is here
    out, err = capsys.readouterr()
    assert "bundles for onnxruntime: can run here\nbundles for tensorrt:    cannot run here\n" in out
    assert "missing: TensorRT is not installed here" in out
    assert "nvidia-jetpack or tensorrt and python3-libnvinfer" in err
    assert "pip install" not in err
    assert main(["doctor", "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == {"onnxruntime": True, "tensorrt": False}
    assert len(found["missing"]) == 2 - (found["gpu"] is not None)


def test_a_build_is_heard_of_without_a_terminal(capsys):
    heard = device_command._Builds()
    for name, seconds in (("a", (0, 1, 29, 30, 31, 59, 61)), ("b", (0, 5))):
        for value in seconds:
            heard(f"building the engine of {name}", 0, 1, {"seconds": float(value)} if value else {})
        heard(f"building the engine of {name}", 1, 1, {})
        heard(name + " latency", 0, 3, {"p50_ms": 1.0})
    assert capsys.readouterr() == (
        "",
        "building the engine of a\nbuilding the engine of a: 30 s\nbuilding the engine of a: 61 s\n"
        "building the engine of b\n",
    )


def test_a_package_that_is_absent(pristine, capsys, monkeypatch):
    real = builtins.__import__

    def without_numpy(name, *rest):
        if name.startswith("numpy"):
            raise ModuleNotFoundError("No module named 'numpy'", name="numpy")
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "edgekd_device.arrays")
    monkeypatch.delattr("edgekd_device.arrays", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_numpy)
    assert main(["check", str(pristine)]) == 4
    assert "python3 -m pip install numpy" in one_line(capsys)


def test_interrupted(pristine, capsys, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(harness, "run", interrupt)
    assert main(["run", str(pristine)]) == 130
    assert "Interrupted" in one_line(capsys)


def test_an_internal_error_leaves_a_report_file(pristine, capsys, monkeypatch, tmp_path):
    def fail(*arguments, **options):
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(harness, "run", fail)
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(pristine)]) == 5
    assert "edgekd-device-error.txt" in one_line(capsys)
    assert "a mistake of ours" in (tmp_path / "edgekd-device-error.txt").read_text()
    (tmp_path / "edgekd-device-error.txt").unlink()
    monkeypatch.setenv("EDGEKD_FAULT", "file.before_rename:1:enospc")
    assert main(["run", str(pristine)]) == 5
    assert "a mistake of ours" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away(pristine, monkeypatch):
    there, here = os.pipe()
    os.close(there)
    with os.fdopen(here, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["info", str(pristine)]) == 0


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["info", "a", "b"], ["run", "x", "--threads", "two"]])
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: edgekd-device" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "exit codes:" in out or arguments == ["--version"]


def test_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["edgekd-device", "doctor", "--json"])
    monkeypatch.delitem(sys.modules, "edgekd_device.__main__")
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("edgekd_device", run_name="__main__")
    assert stop.value.code == 0


def test_a_signature_is_asked_for_where_nothing_can_hold_it(tiny_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    (tmp_path / "pub.pem").write_text("any")
    (tiny_bundle / "bundle.sig").write_text("any")
    assert main(["check", str(tiny_bundle), "--public-key", str(tmp_path / "pub.pem")]) == 4
    assert "cryptography is not installed" in one_line(capsys)
    assert main(["check", str(tiny_bundle)]) == 0
    assert "not checked against any key; see --public-key" in capsys.readouterr().out
