"""NVML: a shared library compiled here says what a GPU would; a real one where there is one."""

from __future__ import annotations

import ctypes
import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
import trt_models
from bad_engines import JETSON
from bundles import write_bundle
from libraries import HERE, compiled
from test_gpu_harness import SHORT
from test_machine import JETSON as JETPACK
from test_machine import ina, plant

from edgekd_device import environment, gates, harness, latency, nvml, power
from edgekd_device.__main__ import main

BUS = "0000:01:00.0"
KINDS = {"energy": ctypes.c_ulonglong, "reasons": ctypes.c_ulonglong}


class Fake:
    """A compiled NVML and what it is to say."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._library = ctypes.CDLL(self.path)
        self.refuse("")
        self.say(energy=10_000_000, power=50_000, clock=1500, celsius=40, reasons=0)

    def say(self, **values: int) -> None:
        for name, value in values.items():
            KINDS.get(name, ctypes.c_uint).in_dll(self._library, "fake_" + name).value = value

    def refuse(self, *names: str) -> None:
        self._library.fake_refuse(" ".join(names).encode())


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nvml")
    made = {"": (), "old": ("-DOLD",), "bare": ("-DBARE", "-Wno-unused")}
    return {name: compiled(HERE / "fake_nvml.c", folder / f"nvml{name}.so", *flags) for name, flags in made.items()}


@pytest.fixture
def fake(libraries: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Fake:
    """The NVML to be found; asked for after ``tensorrt``, which takes away what this machine has."""
    made = Fake(libraries[""])
    monkeypatch.setattr(nvml, "LIBRARY", made.path)
    return made


def test_everything_that_is_read(fake):
    gpu = nvml.find(BUS)
    assert gpu is not None
    assert (gpu.joules(), gpu.watts(), gpu.mhz(), gpu.celsius(), gpu.reasons()) == (10000.0, 50.0, 1500, 40, 0)
    fake.say(energy=2**40, reasons=0x48)  # both have 64 bits
    assert (gpu.joules(), gpu.reasons()) == (2**40 / 1000, 0x48)


def test_the_names_of_an_older_driver(libraries, monkeypatch):
    fake = Fake(libraries["old"])
    monkeypatch.setattr(nvml, "LIBRARY", fake.path)
    fake.say(reasons=4)
    gpu = nvml.find(BUS)
    assert gpu is not None
    assert gpu.reasons() == 4


def test_where_there_is_none(fake, libraries, monkeypatch):
    for other in ("", "0000:02:00.0", "ü"):
        assert nvml.find(other) is None
        assert power.find("/nowhere", other) is None
    fake.refuse("nvmlInit_v2")
    assert nvml.find(BUS) is None
    for library in (str(libraries["bare"]), "libnvidia-ml-absent.so"):
        monkeypatch.setattr(nvml, "LIBRARY", library)
        assert nvml.find(BUS) is None


def test_what_a_gpu_does_not_say(fake):
    gpu = nvml.find(BUS)
    assert gpu is not None
    fake.refuse("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetClockInfo",
                "nvmlDeviceGetTemperature", "nvmlDeviceGetCurrentClocks")  # fmt: skip
    assert (gpu.joules(), gpu.watts(), gpu.mhz(), gpu.celsius()) == (None, None, None, None)
    assert power.find("/nowhere", BUS) is None
    fake.refuse("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
    assert gpu.reasons() is None


def test_the_counter_of_energy_is_preferred(fake, tmp_path):
    source = power.find(str(tmp_path), BUS)
    assert source is not None
    assert (source.name, source.rails) == ("nvml", ("GPU board",))
    assert source.step(0.0) == 0.0
    fake.say(energy=10_002_500, power=999_000)
    assert source.step(1.0) == pytest.approx(2.5)
    assert source.step(2.0) == 0.0  # it moves in steps
    fake.say(energy=1000)  # the driver was loaded anew
    assert source.step(3.0) is None
    fake.refuse("nvmlDeviceGetTotalEnergyConsumption")
    assert source.step(4.0) is None


def test_power_is_added_up_where_there_is_no_counter(fake, tmp_path):
    fake.refuse("nvmlDeviceGetTotalEnergyConsumption")
    source = power.find(str(tmp_path), BUS)
    assert source is not None
    assert source.step(10.0) == 0.0
    fake.say(power=150_000)
    assert source.step(12.0) == pytest.approx(200.0)  # between 50 and 150 W for two seconds
    fake.refuse("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage")
    assert source.step(13.0) is None


def test_a_jetsons_own_rails_come_first(fake, tmp_path):
    root = plant(tmp_path, ina(0, 1, "VDD_IN", "5000", "1000"))
    assert isinstance(power.find(root, BUS), power.Rails)
    assert power.find(str(tmp_path / "empty")) is None  # a processor's energy is not the GPU's


def watched(fake: Fake, *readings: dict[str, Any]) -> dict[str, tuple[str, str]]:
    gpu = nvml.find(BUS)
    found = nvml.Watched(gpu)
    for reading in readings:
        fake.say(**reading)
        found.look()
    return {gate.name: (gate.verdict, gate.found) for gate in found.gates()}


@pytest.mark.parametrize(
    ("readings", "throttling", "clock"),
    [
        ([{}, {}], ("passed", "in 2 readings"), ("passed", "1500 MHz")),
        ([{"reasons": 0x113}], ("passed", "in 1 readings"), ("passed", "1500 MHz")),  # idle, and clocks somebody chose
        ([{}, {"reasons": 0x4}], ("warning", "held at its power limit"), ("passed", "1500 MHz")),
        ([{"reasons": 0x8}, {"reasons": 0x4}], ("failed", "hardware slowdown"), ("passed", "1500 MHz")),
        ([{"reasons": 0xE0}], ("failed", "thermal slowdown, hardware thermal slowdown, power brake"), None),
        ([{"clock": 1510}, {"clock": 1500}], None, ("passed", "1510 MHz")),
        ([{}, {"clock": 210}], None, ("warning", "between 210 and 1500 MHz: pin it, nvidia-smi --lock-gpu-clocks")),
        ([], ("not measured", nvml.SILENT), ("not measured", nvml.SILENT)),
    ],
)
def test_gates_of_a_pcs_gpu(readings, throttling, clock, fake):
    found = watched(fake, *readings)
    assert throttling in (None, found["GPU throttling"])
    assert clock in (None, found["GPU clocks"])


def test_a_reading_that_fails_on_the_way_is_not_measured(fake):
    found = nvml.Watched(nvml.find(BUS))
    found.look()
    fake.refuse("nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrentClocksEventReasons",
                "nvmlDeviceGetCurrentClocksThrottleReasons")  # fmt: skip
    fake.say(celsius=55)
    found.look()
    assert [gate.verdict for gate in found.gates()] == ["not measured"] * 2
    assert found.said() == {"mhz": [1500, 1500], "max_c": 55}
    absent = nvml.Watched(None)
    absent.look()
    assert [gate.verdict for gate in absent.gates()] == ["not measured"] * 2
    assert absent.said() == {"mhz": None, "max_c": None}


def test_only_the_gpu_of_a_pc_is_asked(fake):
    assert nvml.watched(None, {"l4t": None}) is None
    assert nvml.watched({"bus": BUS}, {"l4t": "R36"}) is None
    assert nvml.watched({"bus": BUS}, {"l4t": None}) is not None
    assert nvml.bus({}) == ""


def test_a_run_on_a_gpu_reports_its_energy_heat_and_clock(tensorrt, fake, tmp_path, monkeypatch):
    tensorrt()
    level = dataclasses.replace(SHORT, power=0.05, publishable=True)
    monkeypatch.setitem(latency.LEVELS, "smoke", level)
    target = dataclasses.replace(JETSON, ships="model.onnx", files=("model.onnx",))
    models = {"model.onnx": trt_models.model("model.onnx")}
    folder = write_bundle(tmp_path, models, target=target, references={})
    report = harness.run(folder, root=str(tmp_path / "no-root"))
    assert report.power is not None
    assert (report.power["source"], report.power["rails"]) == ("nvml", ["GPU board"])
    assert report.rows[0].energy_mj == 0.0  # the counter stands still
    assert report.thermal is not None
    assert report.thermal["gpu"] == {"mhz": [1500, 1500], "max_c": 40}
    assert {gate.name for gate in report.gates} >= {"GPU throttling", "GPU clocks"}
    assert report.rows[0].engine is not None
    assert report.rows[0].engine["bus"] == BUS
    alone = harness.run(folder, root=str(tmp_path / "no-root"), runtime="onnxruntime")
    assert alone.thermal is not None
    assert "gpu" not in alone.thermal
    assert not {gate.name for gate in alone.gates} & {"GPU throttling", "GPU clocks"}
    board = harness.run(folder, root=plant(tmp_path / "jetson", JETPACK))
    assert board.thermal is not None
    assert "gpu" not in board.thermal


def test_doctor_says_what_tells_the_gpus_energy(tensorrt, fake, monkeypatch, capsys):
    tensorrt()
    monkeypatch.setattr(nvml, "LIBRARY", "libnvidia-ml-absent.so")
    assert main(["doctor"]) in (0, 4)
    assert "gpu_energy           not available" in capsys.readouterr().out
    monkeypatch.setattr(nvml, "LIBRARY", fake.path)
    assert main(["doctor"]) in (0, 4)
    assert "gpu_energy           nvml (GPU board)" in capsys.readouterr().out


@pytest.mark.gpu
def test_a_real_gpu():
    """Energy grows, the clock and the temperature are those of a machine that runs; on a PC, as a Jetson has its rails."""
    from edgekd_device.runtime import cuda

    if environment.board()["l4t"] is not None:
        pytest.skip("a Jetson says it in /sys")
    gpu = cuda.start()
    try:
        found = nvml.find(gpu.device.bus)
        assert found is not None
        source = power.find(gpu=gpu.device.bus)
        assert source is not None
        source.step(time.monotonic())
        time.sleep(1.0)
        assert 0.5 < (source.step(time.monotonic()) or 0.0) < 2000
        assert 1 < (found.watts() or 0) < 2000
        assert 50 < (found.mhz() or 0) < 5000
        assert 0 < (found.celsius() or 0) < 120
        assert found.reasons() is not None
        watch = gates.Watch("/", nvml.Watched(found))
        assert {gate.verdict for gate in watch.gates(None, environment.collect())} <= {
            "passed", "warning", "failed", "not measured",
        }  # fmt: skip
    finally:
        gpu.close()
