"""Environment and energy, read from made-up /proc and /sys trees."""

from __future__ import annotations

import itertools
import json
import os
import platform
import time
from pathlib import Path

import pytest

from edgekd_device import environment, power
from edgekd_device.errors import EnvironmentFault


def plant(root: Path, tree: dict[str, str]) -> str:
    for name, text in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


PC = {
    "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12"\n',
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU 9000\n",
    "proc/loadavg": "0.10 0.20 0.30 1/100 5\n",
    "proc/meminfo": "MemTotal: 8192000 kB\nMemAvailable: 4096000 kB\nSwapTotal: 2048000 kB\nSwapFree: 1024000 kB\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "3000000\n",
    "sys/class/thermal/thermal_zone0/temp": "41500\n",
    "sys/class/thermal/thermal_zone1/temp": "-256000\n",
    "sys/class/thermal/thermal_zone2/temp": "N/A\n",
}
JETSON = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n",
    "var/lib/nvpmodel/status": "pmode:0001 fmode:fanNull\n",
}


MODES = """# comments
< PARAM TYPE=CLOCK NAME=EMC >
MAX_FREQ /sys/kernel/nvpmodel_clk_cap/emc
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
GPU MAX_FREQ 624750000
< POWER_MODEL ID=1 NAME=7W >
< POWER_MODEL ID=2 NAME=MODE_30W >
< PM_CONFIG DEFAULT=0 >
"""


def ina(chip: int, channel: int, label: str, millivolts: str, milliamperes: str) -> dict[str, str]:
    base = f"sys/class/hwmon/hwmon{chip}/"
    return {
        base + "name": "ina3221\n",
        f"{base}in{channel}_label": label + "\n",
        f"{base}in{channel}_input": millivolts + "\n",
        f"{base}curr{channel}_input": milliamperes + "\n",
    }


THOR = {  # the whole module hangs on a chip of another kind, which has no labels
    "sys/class/hwmon/hwmon4/name": "ina238\n",
    "sys/class/hwmon/hwmon4/in0_input": "3\n",
    "sys/class/hwmon/hwmon4/in1_input": "19780\n",
    "sys/class/hwmon/hwmon4/curr1_input": "1000\n",
}


def test_a_board_is_known_in_a_container_too(tmp_path):
    hidden = {name: text for name, text in JETSON.items() if not name.startswith("proc")}
    assert environment.collect(plant(tmp_path, hidden))["board"] is None
    plant(tmp_path, {"tmp/nv_jetson_model": "NVIDIA Jetson AGX Orin\0"})
    assert environment.collect(str(tmp_path))["board"] == "NVIDIA Jetson AGX Orin"
    plant(tmp_path, JETSON)
    assert environment.collect(str(tmp_path))["board"] == "NVIDIA Jetson Orin Nano Developer Kit"


def test_a_pc(tmp_path):
    found = environment.collect(plant(tmp_path, PC))
    assert found["cpu"] == "Some CPU 9000"
    assert found["os"] == "Debian GNU/Linux 12"
    assert (found["memory_mb"], found["memory_available_mb"], found["swap_used_mb"]) == (8000, 4000, 1000)
    assert (found["governor"], found["cpu_khz"], found["cpu_khz_max"]) == ("performance", 3e6, None)
    assert (found["load"], found["temperature_c"]) == (0.1, 41.5)
    assert (found["board"], found["l4t"], found["power_mode"]) == (None, None, None)
    assert environment.faults(found) == {}


def test_a_jetson(tmp_path):
    held = {**core(0, 729600, 729600), **devfreq("17000000.gpu", *[612000000] * 3)}
    found = environment.collect(plant(tmp_path, {**PC, **JETSON, **held}))
    assert found["board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["l4t"] == "R36 (release), REVISION: 4.3"
    assert (found["memory_hz_cap"], found["tpc_pg_mask"]) == (None, None)
    plant(
        tmp_path, {"sys/kernel/nvpmodel_clk_cap/emc": "2133000000\n", "sys/devices/platform/gpu.0/tpc_pg_mask": "252\n"}
    )
    capped = environment.collect(str(tmp_path))
    assert (capped["memory_hz_cap"], capped["tpc_pg_mask"]) == (2133000000.0, "252")
    assert found["power_mode"] == "number 1"
    assert list(environment.faults(found).values()) == ["warning"]  # numbers differ between boards
    found = environment.collect(plant(tmp_path, {environment.MODES: MODES}))
    assert found["power_mode"] == "7W"
    assert environment.faults(found) == {}
    plant(tmp_path, {"var/lib/nvpmodel/status": "pmode:0007 fmode:fanNull\n"})
    assert environment.power_mode(str(tmp_path)) == "number 7"


@pytest.mark.parametrize(
    ("made_for", "board", "fits"),
    [
        ("36.4", "# R36 (release), REVISION: 4.3, GCID: 1", True),
        ("36.4", "# R36 (release), REVISION: 5.0", True),
        ("36.4", "# R36 (release), REVISION: 3.0", False),
        ("36.4", "# R38 (release), REVISION: 2.0", False),
        ("38", "# R39 (release), REVISION: 2.0", True),
        ("39.2", "# R36 (release), REVISION: 4.3", False),
        ("35.4", "# R35 (release), REVISION: 5.0", True),
        ("36.4", None, True),  # no board, or one that is not shown
        ("", "# R38 (release), REVISION: 2.0", True),  # no image of ours
    ],
)
def test_an_image_for_another_jetpack_does_not_run(tmp_path, monkeypatch, made_for, board, fits):
    monkeypatch.setenv(environment.MADE_FOR, made_for)
    root = plant(tmp_path, {} if board is None else {"etc/nv_tegra_release": board + "\n"})
    if fits:
        environment.refuse_misfit(root)
        return
    with pytest.raises(EnvironmentFault, match=r"made for a board with JetPack Linux 3.*docker/Dockerfile\.jetson"):
        environment.refuse_misfit(root)


def devfreq(name: str, low: int, high: int, now: int) -> dict[str, str]:
    """A GPU's clock, in Hz as the kernel writes it."""
    values = zip(("min", "max", "cur"), (low, high, now), strict=True)
    return {f"sys/class/devfreq/{name}/{end}_freq": f"{value}\n" for end, value in values}


def core(number: int, low: int, high: int) -> dict[str, str]:
    """A core's clock, in kHz as the kernel writes it."""
    base = f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_"
    return {base + "min_freq": f"{low}\n", base + "max_freq": f"{high}\n"}


@pytest.mark.parametrize(
    ("name", "known"),
    [("17000000.gpu", True), ("17000000.ga10b", True), ("57000000.gpu", True), ("17000000.gv11b", True)]
    + [("gpu-gpc-0", True), ("gpu-nvd-0", True), ("15340000.vic", False), ("emc", False)],
)
def test_the_clock_of_a_gpu_is_found_by_its_name(name, known, tmp_path):
    found = environment.clocks(plant(tmp_path, devfreq(name, 306000000, 612000000, 408000000)))
    assert found == {"GPU": {name: environment.Clock(306.0, 612.0, 408.0)} if known else {}, "CPU": {}}


@pytest.mark.parametrize(
    ("tree", "held", "spans"),
    [
        ({}, None, (None, None)),
        ({**core(0, 729600, 729600), **core(1, 1510400, 1510400)}, True, (None, [729.6, 1510.4])),
        ({**core(0, 729600, 1510400)}, False, (None, [729.6, 1510.4])),
        ({**devfreq("17000000.gpu", 612000000, 612000000, 612000000)}, True, ([612.0, 612.0], None)),
        ({**devfreq("17000000.gpu", 612000000, 612000000, 306000000)}, False, ([612.0, 612.0], None)),
        ({**devfreq("17000000.gpu", 1, 2, 1), "sys/class/devfreq/17000000.gpu/cur_freq": "N/A"}, None, (None, None)),
        ({**core(0, 1, 2), "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": ""}, None, (None, None)),
    ],
)
def test_clocks_are_pinned_where_they_cannot_move(tree, held, spans, tmp_path):
    found = environment.collect(plant(tmp_path, {**PC, **tree}))
    assert found["clocks_pinned"] is held
    assert (found["clocks"]["GPU"], found["clocks"]["CPU"]) == spans
    assert len(environment.faults(found)) == (held is False)


def test_a_jetson_that_hides_its_power_mode_cannot_be_quoted(tmp_path):
    tree = {**JETSON, "proc/loadavg": "99.0 1 1\n", **core(0, 729600, 1510400)}
    del tree["var/lib/nvpmodel/status"]
    assert environment.faults(environment.collect(plant(tmp_path, tree))) == {
        "the machine was busy before: load average 99": "warning",
        "the clocks were not pinned (Jetson: sudo jetson_clocks)": "warning",
        "this Jetson does not say its power mode": "invalid",
        "this Jetson does not say its temperature": "invalid",
        "this Jetson does not say its GPU clocks": "invalid",
    }


@pytest.mark.parametrize(
    ("tree", "hidden"),
    [
        (core(0, 729600, 729600), ["GPU"]),
        (devfreq("17000000.gpu", *[612000000] * 3), ["CPU"]),
        ({}, ["GPU", "CPU"]),
    ],
)
def test_a_jetson_whose_clocks_cannot_be_read_cannot_be_quoted(tree, hidden, tmp_path):
    found = environment.collect(plant(tmp_path, {**PC, **JETSON, environment.MODES: MODES, **tree}))
    assert environment.faults(found) == {f"this Jetson does not say its {kind} clocks": "invalid" for kind in hidden}
    on_its_processor = environment.faults(found, on_gpu=False)
    assert list(on_its_processor) == [f"this Jetson does not say its {kind} clocks" for kind in hidden if kind == "CPU"]


def test_a_machine_that_says_nothing(tmp_path):
    found = environment.collect(str(tmp_path))
    silent = ("os", "cpu", "load", "memory_mb", "swap_used_mb", "governor", "temperature_c", "board")
    assert [found[name] for name in silent] == [None] * len(silent)
    assert environment.faults(found) == {}
    assert power.find(str(tmp_path)) is None


def test_this_machine_without_its_name_its_user_or_a_path():
    text = json.dumps(environment.collect())
    assert environment.collect()["numpy"]
    assert environment.version_of("no-such-package") is None
    assert f'"{platform.node()}"' not in text
    assert str(Path.home()) not in text
    assert os.getcwd() not in text


@pytest.mark.parametrize(
    ("tree", "rails", "watts"),
    [
        ({**ina(0, 1, "VDD_IN", "5000", "1000"), **ina(0, 2, "VDD_SOC", "5000", "200")}, ("VDD_IN",), 5.0),
        ({**ina(0, 1, "POM_5V_IN", "5000", "370")}, ("POM_5V_IN",), 1.85),
        (
            {
                **ina(0, 1, "VDD_GPU_SOC", "1000", "5139"),
                **ina(0, 2, "VDD_CPU_CV", "1000", "3268"),
                **ina(1, 1, "VIN_SYS_5V0", "5000", "1100"),
                **ina(1, 3, "NC", "1", "1"),
            },
            ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
            13.907,
        ),
        ({**ina(0, 1, "VDD_GPU", "1000", "1962"), **THOR}, ("VIN",), 19.78),
    ],
)
def test_jetson_rails(tree, rails, watts, tmp_path):
    source = power.find(plant(tmp_path, {**tree, "sys/class/hwmon/hwmon9/name": "coretemp\n"}))
    assert source is not None
    assert source.rails == rails
    assert isinstance(power.find(str(tmp_path), gpu=""), power.Rails)
    assert source.step(10.0) == 0.0
    assert source.step(12.0) == pytest.approx(2 * watts)


def test_a_rail_that_changes_is_added_up_by_trapezoids_and_one_that_vanishes_is_not_measured(tmp_path):
    source = power.find(plant(tmp_path, ina(0, 1, "VDD_IN", "5000", "1000")))
    assert source is not None
    source.step(0.0)
    plant(tmp_path, ina(0, 1, "VDD_IN", "5000", "3000"))
    assert source.step(1.0) == pytest.approx(10.0)
    (tmp_path / "sys/class/hwmon/hwmon0/curr1_input").unlink()
    assert source.step(2.0) is None


@pytest.mark.parametrize(
    "tree",
    [
        ina(0, 1, "VDD_SOC", "5000", "200"),
        {**ina(0, 1, "VDD_IN", "5000", "200"), "sys/class/hwmon/hwmon0/in1_enable": "0\n"},
        {"sys/class/powercap/intel-rapl:0/name": "package-0\n"},
    ],
)
def test_sources_that_say_too_little(tree, tmp_path):
    assert power.find(plant(tmp_path, tree)) is None


def test_on_a_jetson_no_part_passes_for_the_module(tmp_path, monkeypatch):
    counted = {"sys/class/powercap/intel-rapl:0/name": "package-0", "sys/class/powercap/intel-rapl:0/energy_uj": "1"}
    root = plant(tmp_path, {**ina(0, 1, "VDD_SOC", "5000", "200"), **counted})
    assert power.find(root) is not None
    monkeypatch.setattr(
        power.nvml, "find", lambda bus: pytest.fail("a board's GPU is not asked for the module's energy")
    )
    plant(tmp_path, JETSON)
    assert power.find(root) is None
    assert power.find(root, gpu="0000:01:00.0") is None


def test_rapl_counters_wrap(tmp_path):
    zone = "sys/class/powercap/intel-rapl:0"
    tree = {zone + "/name": "package-0", zone + "/energy_uj": "9000000", zone + "/max_energy_range_uj": "10000000"}
    source = power.find(plant(tmp_path, {**tree, zone + "/intel-rapl:0:0/energy_uj": "5"}))
    assert source is not None
    assert (source.name, source.rails) == ("rapl", ("package-0",))
    assert power.find(str(tmp_path), gpu="") is None  # they say nothing of a GPU
    assert source.step(0.0) == 0.0
    plant(tmp_path, {zone + "/energy_uj": "2000000"})
    assert source.step(1.0) == pytest.approx(3.0)
    (tmp_path / zone / "energy_uj").unlink()
    assert source.step(2.0) is None


def test_rapl_counts_nothing_twice(tmp_path):
    """The zone psys holds the packages, and stands before or after them."""
    tree = {}
    for k, name in enumerate(("psys", "package-0", "package-1")):
        zone = f"sys/class/powercap/intel-rapl:{k}"
        tree.update({zone + "/name": name + "\n", zone + "/energy_uj": "1000000\n"})
    source = power.find(plant(tmp_path, tree))
    assert source is not None
    assert source.rails == ("package-0", "package-1")
    source.step(0.0)
    plant(tmp_path, {name: "3000000\n" for name in tree if name.endswith("energy_uj")})
    assert source.step(1.0) == pytest.approx(4.0)


class Steady:
    """Two watts, until ``steps`` readings were taken."""

    name, rails = "steady", ("one",)

    def __init__(self, steps: int) -> None:
        self._left, self._last = steps, None

    def step(self, now: float) -> float | None:
        self._left -= 1
        last, self._last = self._last, now
        return None if self._left < 0 else 0.0 if last is None else 2.0 * (now - last)


def _work() -> int:
    time.sleep(0.12)
    return 24


def test_energy_per_inference():
    found = power.measure(Steady(1000), _work, 0.06)
    assert found is not None
    assert (found["idle_w"], found["load_w"]) == pytest.approx((2.0, 2.0))
    assert found["j_per_inference"] == pytest.approx(2.0 * 0.12 / 24, rel=0.5)
    assert found["j_net_per_inference"] == pytest.approx(0.0, abs=1e-9)
    assert found["inferences"] == 24
    order: list[str] = []

    def work() -> int:
        order.append("work")
        return 1

    power.measure(Steady(1000), work, 0.0, lambda: order.append("ready"))
    assert order == ["ready", "work"]
    assert found["samples"] >= 3


@pytest.mark.parametrize("steps", [0, 4])
def test_energy_with_a_reading_lost_is_not_measured(steps):
    assert power.measure(Steady(steps), _work, 0.06) is None


def test_a_metered_stretch_starts_where_it_starts():
    ticks = itertools.count()
    source = Steady(1000)
    source.step(-100.0)
    with power.metered(source, lambda: float(next(ticks))) as energy:
        pass
    assert energy().joules == 2.0
