"""The harness and the command on TensorRT: which files, what the rows say of their engines, the GPU's own pass."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trt_models
from bundles import COUNT, TARGET, replace_file, write_bundle
from PIL import Image
from test_machine import JETSON as JETPACK
from test_machine import MODES, plant

from edgekd.cli import run as edgekd_command
from edgekd_device import arrays, environment, files, gpu, harness, latency, predict
from edgekd_device.__main__ import main
from edgekd_device.errors import EnvironmentFault, UsageError
from edgekd_device.latency import Level
from edgekd_device.metrics import Rate
from edgekd_device.records import DeviceReport
from edgekd_device.runtime import trt

SHORT = Level("smoke", 1, 0.02, 1, 1, 0.01, 0.01, 0.0, 4)
FULL = dataclasses.replace(SHORT, name="full", blocks=2, publishable=True, sweep=0.01, batches=(1, 64))
NAMES = (*trt_models.FLAVOURS, "model.u8s8.onnx")
JETSON = dataclasses.replace(TARGET, runtime="tensorrt", ships="model.qdq.onnx", files=NAMES)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latency.LEVELS, "smoke", SHORT)
    monkeypatch.setitem(latency.LEVELS, "full", FULL)


@pytest.fixture(scope="session")
def jetson(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = {name: trt_models.model(name) for name in NAMES[:-1]}
    models["model.u8s8.onnx"] = trt_models.model("model.u8s8.onnx", np.uint8(0))
    return write_bundle(tmp_path_factory.mktemp("board"), models, target=JETSON, references={})


def run(folder: Path, **options: Any) -> DeviceReport:
    return harness.run(folder, **{"root": str(folder.parent / "no-root"), **options})


def test_every_flavour_is_measured_and_says_what_was_built_of_it(jetson, tensorrt):
    tensorrt()
    report = run(jetson)
    assert report.valid, report.invalid_reasons
    assert [(row.stage, row.precision) for row in report.rows] == [
        ("model.onnx", "fp32"),
        ("model.fp16.onnx", "fp16"),
        ("model.qdq.fp16.onnx", "int8"),
        ("model.qdq.onnx", "int8"),
    ]
    for row in report.rows:
        assert (row.runtime, row.acc) == ("tensorrt", Rate(COUNT, COUNT))
        assert row.latency is not None
        assert row.gpu is not None
        assert 0 < row.gpu.p50_ms
        assert row.engine is not None
        assert row.engine["onnx_sha256"] == row.sha256 == files.sha256_file(jetson / row.stage)
        assert row.engine["tensorrt"] == "10.3.0"
        assert row.engine["built_now"]
        assert row.engine["launch_ms"] > 0
        assert (row.engine["memory"], row.engine["waits"]) == ("copy", "spins")
        assert row.seconds == row.engine["build_seconds"]
        assert row.notes[0].startswith("TensorRT 10.3.0, ")
        assert row.engine["file"].endswith(".plan")
    assert report.rows[3].notes[0] == "TensorRT 10.3.0, weakly typed, FP16 + INT8; layers: 1 in int8, 3 in fp16"
    assert DeviceReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    text = json.dumps(report.to_json())
    assert str(jetson) not in text
    assert '"/' not in text
    again = run(jetson, cuda_graph=True)
    assert [row.engine["built_now"] for row in again.rows if row.engine] == [False] * 4


def test_fp16_is_measured_beside_int8_asked_for_or_not(jetson, tensorrt):
    tensorrt()
    rows = run(jetson, files=["model.qdq.onnx"]).rows
    assert [row.stage for row in rows] == ["model.fp16.onnx", "model.qdq.onnx"]
    assert [row.stage for row in run(jetson, files=["model.onnx"]).rows] == ["model.onnx"]
    assert [row.stage for row in run(jetson, files=["model.qdq.onnx"], runtime="onnxruntime").rows] == [
        "model.qdq.onnx"
    ]


def test_eleven_takes_the_file_that_is_typed_for_it(jetson, tensorrt):
    """model.qdq.onnx still gives ACC and ASR; latency, throughput and so on are of the file that stands for it."""
    tensorrt("11.4.0")
    report = run(jetson, level="full")
    rows = {row.stage: row for row in report.rows}
    assert rows["model.qdq.onnx"].acc == Rate(COUNT, COUNT)
    assert (rows["model.qdq.onnx"].latency, rows["model.qdq.onnx"].gpu) == (None, None)
    assert (
        "latency not quoted: this file is made for tensorrt, but not for tensorrt 11.4.0"
        in rows["model.qdq.onnx"].notes
    )
    assert rows["model.qdq.fp16.onnx"].latency is not None
    assert [entry["batch"] for entry in report.throughput] == [1.0, 64.0]
    assert report.stage == "model.qdq.fp16.onnx"
    assert "throughput: one engine for batches 1 to 64, copies not overlapped" in rows["model.qdq.fp16.onnx"].notes
    alone = run(jetson, files=["model.qdq.onnx"], level="full")
    assert (alone.stage, alone.throughput) == (None, ())  # nothing stands for it


@pytest.mark.parametrize(("version", "name"), [("10.3.0", "model.qdq.onnx"), ("11.4.0", "model.qdq.fp16.onnx")])
def test_a_picture_goes_through_the_file_whose_latency_is_quoted(
    version, name, jetson, tensorrt, engines_folder, tmp_path
):
    tensorrt(version)
    Image.fromarray(np.full((8, 8, 3), (9, 200, 9), np.uint8)).save(tmp_path / "green.png")
    assert predict.predict(jetson, tmp_path / "green.png")[0].name == "green"
    (kept,) = engines_folder.glob("*.plan")
    assert kept.stem == files.sha256_file(jetson / name)[:32]


def test_a_publishable_level_holds_the_gpus_time_to_be_steady(jetson, tensorrt, tmp_path, monkeypatch):
    tensorrt()
    times = tmp_path / "report.times.npz"
    report = run(jetson, level="full", files=["model.qdq.onnx"], times=times)
    found = {gate.name: gate for gate in report.gates if gate.name.startswith("GPU time")}
    assert sorted(found) == ["GPU time of model.fp16.onnx", "GPU time of model.qdq.onnx"]
    kept = arrays.read_npz(times)
    for row in report.rows:
        assert row.gpu is not None
        blocks = [kept[f"{row.stage} GPU block {k}"] for k in (1, 2)]
        assert row.gpu.count == sum(map(len, blocks))
        assert np.concatenate(blocks).min() / 1e3 == pytest.approx(row.gpu.min_ms, rel=1e-5)
        gate = found[f"GPU time of {row.stage}"]
        assert (gate.verdict == "failed") == (f"{gate.name}: {gate.found}" in report.invalid_reasons)


def test_the_gate_of_the_gpus_time():
    steady = [np.array([100, 101, 100, 99]), np.array([100, 100])]
    assert gpu.gate("m", steady).verdict == "passed"
    assert gpu.gate("m", [np.array([100, 130, 100])]).verdict == "failed"
    assert gpu.gate("m", [np.array([0, 0])]).found == "0.0 %"
    assert gpu.gate("m", steady).limit == "coefficient of variation at most 2.5 %"
    assert gpu.summary([], SHORT, 1) is None


@pytest.mark.parametrize(
    ("layers", "meant", "verdict"),
    [
        ({}, 20, "not measured"),
        ({"fp16": 3}, 20, "not measured"),
        ({"products": 21, "int8 products": 0}, 20, "failed"),
        ({"products": 21, "int8 products": 17}, 20, "failed"),
        ({"products": 21, "int8 products": 18}, 20, "passed"),
        ({"products": 17, "int8 products": 16}, 20, "passed"),  # four were fused into others
        ({"products": 10, "int8 products": 10}, 20, "passed"),
        ({"products": 2, "int8 products": 2}, 20, "not measured"),  # what became of the others nobody knows
        ({"products": 2, "int8 products": 1}, 20, "failed"),
        ({"products": 21, "int8 products": 9}, 10, "passed"),  # the others stay float in the file, too
        ({"products": 1, "int8 products": 0}, 0, "failed"),
    ],
)
def test_an_int8_file_must_compute_in_int8(layers, meant, verdict):
    gate = gpu.int8_gate("m", {"layers": layers, "int8_layers_of_file": meant})
    assert (gate.name, gate.limit, gate.verdict) == (
        "INT8 layers of m",
        "90 % or more of those that the engine shows",
        verdict,
    )


@pytest.mark.parametrize(
    ("launch", "graph", "words"),
    [
        (None, False, ""),
        (0.008, False, ""),
        (0.009, False, "bound by launching, which takes 0.009 ms of the processor: use --cuda-graph"),
        (0.009, True, "bound by launching, which takes 0.009 ms of the processor"),
    ],
)
def test_a_small_network_may_be_bound_by_its_launches(launch, graph, words):
    alone = gpu.summary([np.full(9, 10000)], SHORT, 1)
    assert alone is not None
    assert gpu.launching({"launch_ms": launch, "cuda_graph": graph}, alone) == words


def test_an_engine_that_says_nothing_of_its_layers_is_not_measured(jetson, tensorrt):
    tensorrt().silent_layers = True
    report = run(jetson, files=["model.qdq.onnx"])
    assert report.valid
    (gate,) = [gate for gate in report.gates if not gate.name.startswith("answers")]
    assert (gate.name, gate.verdict) == ("INT8 layers of model.qdq.onnx", "not measured")
    assert report.rows[1].notes[0].endswith("the layers' precisions are not known")


def test_fp16_that_the_bundle_lacks_is_not_measured(tensorrt, tmp_path):
    tensorrt()
    target = dataclasses.replace(JETSON, files=("model.qdq.onnx",))
    folder = write_bundle(tmp_path, {"model.qdq.onnx": trt_models.model()}, target=target, references={})
    found = {gate.name: gate for gate in run(folder).gates}
    assert found["FP16 beside INT8"].verdict == "not measured"
    assert found["INT8 layers of model.qdq.onnx"].verdict == "passed"
    assert gpu.half_gate(["fp16", "int8"]) == gpu.half_gate(["fp32"]) == ()


def test_an_engine_that_silently_runs_float_is_not_valid(jetson, tensorrt):
    tensorrt().float_layers = True
    report = run(jetson, files=["model.qdq.onnx"])
    found = "0 of the file's 1 INT8 layers are INT8 in the engine, which shows 2 products"
    assert report.invalid_reasons == (f"model.qdq.onnx: {found}",)
    assert [gate.found for gate in report.gates if gate.verdict == "failed"] == [found]


def test_a_file_for_the_processor_is_refused_on_the_gpu(jetson, tensorrt):
    script = tensorrt()
    with pytest.raises(UsageError, match=r"^model\.u8s8\.onnx: The model is not quantised for TensorRT"):
        run(jetson, files=["model.u8s8.onnx"])
    assert script.builds <= 1  # of the FP16 file beside it


def test_engines_are_built_before_any_is_open(jetson, tensorrt, tmp_path, monkeypatch):
    script, built = tensorrt(), []
    real = trt.TrtSession.__init__

    def opened(self: Any, *rest: Any) -> None:
        built.append(script.builds)
        real(self, *rest)

    monkeypatch.setattr(trt.TrtSession, "__init__", opened)
    report = run(jetson)
    assert built == [4, 4, 4, 4]
    assert all(row.engine is not None and row.engine["built_now"] for row in report.rows)
    root = plant(tmp_path, {**JETPACK, environment.MODES: MODES})
    notes = run(jetson, root=root, files=["model.onnx"]).rows[0].notes
    assert "made for the board None, but here it is NVIDIA Jetson Orin Nano" in notes[0]
    plant(tmp_path, {"var/lib/nvpmodel/status": "pmode:0000 fmode:fanNull\n"})
    report = run(jetson, root=root, files=["model.onnx"])
    assert "the engine was built with power mode 7W, but here it is 15W" in report.rows[0].notes
    assert script.builds == 5


def test_no_memory_is_found_out_before_the_kernel_kills(jetson, tensorrt, tmp_path, fake_cuda):
    board = {"proc/device-tree/model": "NVIDIA Jetson Orin Nano\0"}
    script, root = tensorrt(), plant(tmp_path, {**board, "proc/meminfo": "MemAvailable: 1300000 kB\n"})
    with pytest.raises(
        EnvironmentFault, match=r"^model\.onnx: 1331 MB of memory are available, but 1388 MB are needed\. C"
    ):
        run(jetson, root=root)
    assert script.builds == 0
    plant(tmp_path, {"proc/meminfo": "MemAvailable: 1400000 kB\n"})
    run(jetson, root=root, files=["model.onnx"])
    plant(tmp_path, {"proc/meminfo": "MemAvailable: 500000 kB\n"})
    run(jetson, root=root, files=["model.onnx"])  # the engine that was kept needs none to be built in
    plant(tmp_path, {"proc/meminfo": "MemAvailable: 200000 kB\n"})
    with pytest.raises(EnvironmentFault, match="of memory are available"):
        run(jetson, root=root, files=["model.onnx"])
    plant(tmp_path, {"proc/meminfo": "MemAvailable: 500000 kB\n"})
    script.activations = 400 << 20
    with pytest.raises(EnvironmentFault, match=r"512 MB of memory are available, but 734 MB are needed"):
        run(jetson, root=root, files=["model.onnx"])
    assert fake_cuda.live == 0
    away = tmp_path / "pc"
    away.mkdir()
    run(
        jetson, root=plant(away, {"proc/meminfo": "MemAvailable: 500000 kB\n"}), files=["model.onnx"]
    )  # a card has its own


def test_gpu_times_that_are_not_valid_make_the_report_so(jetson, tensorrt, monkeypatch):
    tensorrt()
    blocks = iter([np.full(9, 1000000), np.full(9, 2000000)])
    real = trt.TrtRunner.gpu_block
    monkeypatch.setattr(trt.TrtRunner, "gpu_block", lambda *a: real(*a) is None or next(blocks))
    report = run(jetson, level="full", files=["model.onnx"])
    assert "model.onnx: GPU alone: block medians differ by 100.0 %" in report.invalid_reasons


def test_a_processors_counters_say_nothing_of_the_gpu(tensorrt, tmp_path, monkeypatch):
    tensorrt()
    monkeypatch.setitem(latency.LEVELS, "smoke", dataclasses.replace(SHORT, power=0.05))
    zone = "sys/class/powercap/intel-rapl:0"
    root = plant(tmp_path, {zone + "/name": "package-0", zone + "/energy_uj": "9000000"})
    target = dataclasses.replace(JETSON, ships="model.onnx", files=("model.onnx",))
    folder = write_bundle(tmp_path, {"model.onnx": trt_models.model("model.onnx")}, target=target, references={})
    assert run(folder, root=root).power is None
    assert run(folder, root=root, runtime="onnxruntime").power is not None


@pytest.mark.gpu
def test_a_real_gpu_from_end_to_end(jetson, tmp_path, monkeypatch):
    """The whole run with whatever TensorRT this machine has: ACC of every flavour, both passes, engines kept."""
    pytest.importorskip("tensorrt")
    monkeypatch.setenv("EDGEKD_ENGINES", str(tmp_path / "engines"))
    for built, graph in ((True, False), (False, True)):
        report = run(jetson, cuda_graph=graph)
        assert report.valid, report.invalid_reasons
        assert [row.acc for row in report.rows] == [Rate(COUNT, COUNT)] * 4
        for row in report.rows:
            assert row.engine is not None
            assert row.engine["built_now"] is built
            assert (row.latency is None) == (row.gpu is None)


def test_no_gpu(jetson, tensorrt, fake_cuda):
    tensorrt()
    fake_cuda.devices(0)
    with pytest.raises(EnvironmentFault, match="no CUDA-capable device"):
        run(jetson)


def test_the_command_builds_and_says_so(jetson, tensorrt, engines_folder, capsys):
    tensorrt()
    assert main(["build", str(jetson)]) == 0
    out, err = capsys.readouterr()
    order = sorted(NAMES[:-1], key=lambda n: (n != "model.onnx", n))
    assert err.splitlines() == [f"building the engine of {name}" for name in order]
    lines = [line for line in out.splitlines() if not line.startswith(" ")]
    assert [line.split(":")[0] for line in lines] == order
    for line in lines:
        assert "built in 0." in line
        assert " MB, " in line
        assert Path(line.split(", ")[-1]).parent == engines_folder
        assert Path(line.split(", ")[-1]).is_file()
    assert "    TensorRT 10.3.0, weakly typed, FP16 + INT8; layers: 1 in int8, 3 in fp16" in out
    assert main(["build", str(jetson), "--file", "model.onnx"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("model.onnx: kept from before, when it took 0.")
    assert main(["build", str(jetson), "--file", "model.u8s8.onnx"]) == 2
    out, err = capsys.readouterr()
    assert "edgekd-device: model.u8s8.onnx: The model is not quantised for TensorRT" in err
    assert err.count("\n") == 1


def test_the_command_runs_and_predicts(jetson, tensorrt, tmp_path, capsys):
    tensorrt()
    out_file = tmp_path / "report.json"
    assert main(["run", str(jetson), "--cuda-graph", "--out", str(out_file)]) == 0
    out = capsys.readouterr().out
    assert "GPU alone p50 " in out
    assert "model.qdq.onnx  int8  tensorrt  ACC 100.00%" in out
    assert DeviceReport.from_json(files.read_json(out_file)).rows[0].gpu is not None
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[..., 1] = 200
    Image.fromarray(pixels).save(tmp_path / "green.png")
    assert main(["predict", str(jetson), str(tmp_path / "green.png"), "--top", "1"]) == 0
    assert capsys.readouterr().out.split()[-1] == "green"


def test_the_hosts_command_takes_what_a_report_advises(jetson, tensorrt, capsys):
    tensorrt()
    words = ["bench", str(jetson), "--runtime", "tensorrt", "--quiet", "--json"]
    assert edgekd_command([*words, "--file", "model.fp16.onnx", "--file", "model.onnx", "--cuda-graph"]) == 0
    rows = DeviceReport.from_json(json.loads(capsys.readouterr().out)).rows
    assert [row.stage for row in rows] == ["model.onnx", "model.fp16.onnx"]
    assert all(row.engine is not None and row.engine["cuda_graph"] for row in rows)
    assert edgekd_command([*words, "--file", "model.onnx"]) == 0
    (row,) = DeviceReport.from_json(json.loads(capsys.readouterr().out)).rows
    assert row.engine is not None
    assert not row.engine["cuda_graph"]
    assert edgekd_command([*words, "--file", "model.other.onnx"]) == 2
    assert "The bundle holds no model 'model.other.onnx'" in capsys.readouterr().err


def test_a_bundle_that_was_spoilt_is_not_built(jetson, tensorrt, tmp_path, capsys):
    script = tensorrt()
    folder = write_bundle(tmp_path, {n: (jetson / n).read_bytes() for n in NAMES}, target=JETSON, references={})
    (folder / "model.qdq.onnx").write_bytes(trt_models.model() + b"\0")
    assert main(["build", str(folder)]) == 2
    assert script.builds == 0
    replace_file(folder, "model.qdq.onnx", b"not a model")  # one who can forge the whole bundle
    assert main(["build", str(folder), "--file", "model.qdq.onnx"]) == 2
    assert "model.qdq.onnx: The model" in capsys.readouterr().err


def test_doctor_says_what_the_gpu_is_reached_by(tensorrt, fake_cuda, capsys, monkeypatch):
    tensorrt()
    monkeypatch.setattr(environment, "version_of", lambda package: "1" if package == "numpy" else None)
    assert main(["doctor"]) == 0  # no onnxruntime, but TensorRT and a GPU
    out = capsys.readouterr().out
    assert "tensorrt             10.3.0" in out
    assert "gpu                  Fake Orin, compute capability 8.7 (ctypes, CUDA 12.6)" in out
    assert "bundles for onnxruntime: cannot run here\nbundles for tensorrt:    can run here\n" in out
    fake_cuda.devices(0)
    assert main(["doctor"]) == 4
    out = capsys.readouterr().out
    assert "gpu                  not available" in out
    assert "missing: cudaGetDeviceCount: CUDA error 100, " in out
