"""Heat soak and validity gates, on made-up /proc and /sys trees and a clock of our own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_machine import JETSON, PC, core, devfreq, plant

from edgekd_device import environment, gates, nvml, thermal
from edgekd_device.records import Gate

SECOND = 1_000_000_000
ZONE = "sys/class/thermal/thermal_zone0/"
CORE = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
OVER = "sys/class/hwmon/hwmon3/oc1_event_cnt"
ALERT = "sys/class/thermal/cooling_device4/"
WHOLE = {
    **PC,
    ZONE + "type": "x86_pkg_temp\n",
    ZONE + "trip_point_0_type": "critical\n",
    ZONE + "trip_point_0_temp": "40000\n",
    ZONE + "trip_point_1_type": "passive\n",
    ZONE + "trip_point_1_temp": "95000\n",
    ZONE + "trip_point_2_type": "passive\n",
    ZONE + "trip_point_2_temp": "-273200\n",
    CORE: "7\n",
    OVER: "0\n",
    ALERT + "type": "cpu-throttle-alert\n",
    ALERT + "cur_state": "0\n",
    "sys/class/thermal/cooling_device5/type": "Processor\n",
    "sys/class/thermal/cooling_device5/cur_state": "3\n",
    **core(0, 3000000, 3000000),
    "proc/vmstat": "nr_free_pages 100\npswpin 5\npswpout 6\n",
}
SOAKED = {"seconds": 75.0, "start_c": 40.0, "end_c": 41.5, "moved_c": 0.4, "steady": True}


class Stove:
    """A machine whose clock moves while it works and whose hottest zone follows ``curve`` (seconds -> °C)."""

    def __init__(self, root: Path, curve: Any, step: float = 0.5) -> None:
        self.now, self.step, self.root, self.curve = 0.0, step, root, curve
        self.heat()

    def heat(self) -> None:
        found = self.curve(self.now)
        text = "N/A" if found is None else str(int(1000 * found))
        plant(self.root, {ZONE + "temp": text})

    def work(self) -> None:
        self.now += self.step
        self.heat()

    def clock(self) -> int:
        return int(self.now * SECOND)

    def soak(self, cap: float = 600.0, calls: list[Any] | None = None) -> dict[str, Any] | None:
        calls = [] if calls is None else calls
        return thermal.soak(self.work, cap, self.clock, str(self.root), lambda *call: calls.append(call))


def test_a_machine_that_is_warm_already_is_soaked_for_a_minute(tmp_path):
    calls: list[Any] = []
    found = Stove(tmp_path, lambda t: 50.0).soak(calls=calls)
    assert found == {"seconds": 60.0, "start_c": 50.0, "end_c": 50.0, "moved_c": 0.0, "steady": True}
    assert calls[0] == ("heat soak", 0, 600, {"temp_c": 50.0})
    assert calls[-1] == ("heat soak", 600, 600, {"temp_c": 50.0})


def test_a_machine_that_warms_is_soaked_until_it_stands_still(tmp_path):
    found = Stove(tmp_path, lambda t: min(70.0, 40.0 + 0.25 * t)).soak()
    assert found is not None
    assert found["steady"]
    assert (found["start_c"], found["end_c"]) == (40.0, 70.0)
    assert 160 < found["seconds"] <= 180  # 120 s of warming, then 60 s of which the first readings may still rise


def test_a_machine_that_goes_on_warming_stops_at_the_cap(tmp_path):
    found = Stove(tmp_path, lambda t: 40.0 + t / 30).soak()
    assert found is not None
    assert (found["steady"], found["seconds"]) == (False, 600.0)
    assert found["moved_c"] == pytest.approx(5 / 3, abs=0.1)
    (gate, *_) = gates.Watch(str(tmp_path)).gates(found, environment.collect(str(tmp_path)))
    assert (gate.name, gate.verdict, gate.found) == ("heat soak", "failed", "moved 1.7 °C, 60.0 °C after 600 s")


def test_a_sensor_that_jumps_stands_still_all_the_same(tmp_path):
    found = Stove(tmp_path, lambda t: 60.0 + (t % 3 == 0) * 4).soak()
    assert found is not None
    assert (found["steady"], found["moved_c"]) == (True, 0.0)


def test_no_soak_where_no_zone_can_be_read(tmp_path):
    stove = Stove(tmp_path, lambda t: None)
    assert stove.soak() is None
    assert stove.now == 0.0
    assert Stove(tmp_path, lambda t: 50.0 if t < 30 else None).soak() is None


def test_slow_work_is_soaked_too(tmp_path):
    found = Stove(tmp_path, lambda t: 50.0, step=25.0).soak()
    assert found is not None
    assert (found["steady"], found["seconds"]) == (True, 75.0)
    short = Stove(tmp_path, lambda t: 50.0).soak(cap=3.0)
    assert short is not None
    assert (short["steady"], short["moved_c"], short["seconds"]) == (False, None, 3.0)


def judged(
    tmp_path: Path, after: dict[str, str], soak: dict[str, Any] | None = SOAKED, before: dict[str, str] = WHOLE
) -> dict[str, Gate]:
    """The gates of a machine that looked like ``before`` when the timed stretches began, and like ``after`` then."""
    root = plant(tmp_path, before)
    around, watch = environment.collect(root), gates.Watch(root)
    with watch.block("model.onnx block 1"):
        plant(tmp_path, after)
    return {gate.name: gate for gate in watch.gates(soak, around)}


def test_a_machine_that_is_fit(tmp_path):
    found = judged(tmp_path, {})
    assert {gate.verdict for gate in found.values()} == {"passed"}
    assert list(found) == ["heat soak", "hottest zone", "throttling", "swap", "CPU clocks", "other load"]
    assert found["hottest zone"].found == "x86_pkg_temp at 41.5 °C, is slowed at 95.0 °C"
    assert found["throttling"].found == "3 counters unchanged"


@pytest.mark.parametrize(
    ("after", "name", "words"),
    [
        ({ZONE + "temp": "90500"}, "hottest zone", "x86_pkg_temp at 90.5 °C, is slowed at 95.0 °C"),
        ({CORE: "9"}, "throttling", "cpu0/thermal_throttle/core_throttle_count went from 7 to 9"),
        ({OVER: "1"}, "throttling", "hwmon3/oc1_event_cnt went from 0 to 1"),
        ({ALERT + "cur_state": "2"}, "throttling", "cooling_device4 (cpu-throttle-alert) in state 2"),
        ({"proc/vmstat": "pswpin 5\npswpout 10\n"}, "swap", "4 pages moved"),
    ],
)
def test_one_gate_fails(tmp_path, after, name, words):
    found = judged(tmp_path, after)
    assert (found[name].verdict, found[name].found) == ("failed", words)
    assert {gate.verdict for gate in found.values() if gate.name != name} == {"passed"}


def test_clocks_and_load_warn_as_the_environment_does(tmp_path):
    found = judged(tmp_path, {}, before={**WHOLE, **core(0, 400000, 3000000), "proc/loadavg": "99.0 1 1\n"})
    assert (found["CPU clocks"].verdict, found["CPU clocks"].found) == ("warning", "cpu0 between 400 and 3000 MHz")
    assert found["other load"].verdict == "warning"
    assert set(environment.faults(environment.collect(str(tmp_path))).values()) == {"warning"}


@pytest.mark.parametrize(
    ("before", "after", "verdict", "words"),
    [
        ((612, 612, 612), (612, 612, 612), "passed", "pinned at 612 MHz"),
        ((612, 612, 612), (612, 612, 306), "failed", "17000000.gpu between 306 and 612 MHz"),
        ((612, 612, 612), (306, 1020, 612), "failed", "17000000.gpu between 306 and 1020 MHz"),
        ((306, 612, 612), (306, 612, 306), "warning", "17000000.gpu between 306 and 612 MHz"),
        ((612, 612, 306), (612, 612, 612), "warning", "17000000.gpu between 306 and 612 MHz"),
        ((612, 612, 612), None, "not measured", "a clock came or went"),
        (None, None, "not measured", "no clock can be read"),
    ],
)
def test_a_boards_gpu_clock_is_watched(before, after, verdict, words, tmp_path):
    name = "17000000.gpu"
    trees = [
        {f"sys/class/devfreq/{name}/cur_freq": "N/A"}
        if megahertz is None
        else devfreq(name, *(1000000 * value for value in megahertz))
        for megahertz in (before, after)
    ]
    found = judged(tmp_path, trees[1], before={**WHOLE, **JETSON, **trees[0]})
    assert (found["GPU clocks"].verdict, found["GPU clocks"].found) == (verdict, words)
    assert found["CPU clocks"].verdict == "passed"


def test_what_cannot_be_read_is_not_measured(tmp_path):
    found = judged(tmp_path, {}, None, {})
    assert {gate.verdict for gate in found.values()} == {"not measured"}
    assert found["heat soak"].found == found["hottest zone"].found == "no thermal zone can be read"


@pytest.mark.parametrize(
    ("after", "name", "words"),
    [
        ({ZONE + "temp": "N/A"}, "hottest zone", "no thermal zone can be read"),
        ({CORE: "N/A"}, "throttling", "a counter came or went"),
        ({"proc/vmstat": "pswpin N/A\npswpout 6\n"}, "swap", "proc/vmstat does not say it"),
        (
            {ZONE + "trip_point_1_type": "active\n", ZONE + "trip_point_2_type": "active\n"},
            "hottest zone",
            "no zone names a passive trip point",
        ),
    ],
)
def test_what_is_lost_on_the_way_is_not_measured(tmp_path, after, name, words):
    found = judged(tmp_path, after)
    assert (found[name].verdict, found[name].found) == ("not measured", words)


@pytest.mark.parametrize(
    ("celsius", "trip", "verdict", "words"),
    [
        (60, None, "passed", "x86_pkg_temp at 41.5 °C, is slowed at 95.0 °C"),  # the hottest names no trip point
        (40, 43, "failed", "skin at 40.0 °C, is slowed at 43.0 °C"),  # the cooler one is nearer to its own
        (90, 110, "passed", "skin at 90.0 °C, is slowed at 110.0 °C"),
    ],
)
def test_every_zone_is_held_against_its_own_trip_point(celsius, trip, verdict, words, tmp_path):
    other = "sys/class/thermal/thermal_zone7/"
    tree = {other + "type": "skin\n", other + "temp": str(1000 * celsius)}
    if trip is not None:
        tree.update({other + "trip_point_0_type": "passive\n", other + "trip_point_0_temp": str(1000 * trip)})
    found = judged(tmp_path, tree)["hottest zone"]
    assert (found.verdict, found.found) == (verdict, words)


@pytest.mark.parametrize(
    ("while_it_works", "verdict", "words"),
    [
        ("612000000", "passed", "pinned at 612 MHz"),
        ("306000000", "failed", "17000000.gpu between 306 and 612 MHz"),
        ("N/A", "not measured", "a clock came or went"),
    ],
)
def test_a_clock_that_moves_only_while_the_gpu_works_is_seen(while_it_works, verdict, words, tmp_path, monkeypatch):
    found = _gate_of_a_clock_that_goes(while_it_works, 612, tmp_path, monkeypatch)
    assert (found.verdict, found.found.split(" while")[0]) == (verdict, words)


@pytest.mark.parametrize(
    ("while_it_works", "verdict", "words"),
    [
        ("612000000", "warning", "17000000.gpu between 306 and 612 MHz"),
        (
            "612000000 306000000",
            "failed",
            "17000000.gpu between 306 and 612 MHz while it worked; pin it (Jetson: sudo jetson_clocks)",
        ),
    ],
)
def test_a_clock_that_is_free_to_move_may_not_while_the_gpu_works(
    while_it_works, verdict, words, tmp_path, monkeypatch
):
    found = _gate_of_a_clock_that_goes(while_it_works, 306, tmp_path, monkeypatch)
    assert (found.verdict, found.found) == (verdict, words)


def _gate_of_a_clock_that_goes(where: str, low: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """where: what it reads while the GPU works, one reading after the other; low: in MHz, its minimum."""
    monkeypatch.setattr(gates, "SAMPLE", 0.002)
    still = devfreq("17000000.gpu", 1000000 * low, 612000000, 612000000)
    root = plant(tmp_path, {**WHOLE, **JETSON, **still})
    around, watch = environment.collect(root), gates.Watch(root)
    clock = tmp_path / "sys/class/devfreq/17000000.gpu/cur_freq"
    with clock.open("r+b", buffering=0) as file, watch.block("a", gpu=True):
        for reading in where.split():
            file.seek(0)
            file.write(reading.ljust(9).encode())  # in place: it is never empty
            _wait_for_readings(watch)
    plant(tmp_path, still)
    return {gate.name: gate for gate in watch.gates(SOAKED, around)}["GPU clocks"]


def _wait_for_readings(watch: gates.Watch) -> None:
    seen = len(watch._worked.get("17000000.gpu", ()))
    for _ in range(5000):
        time.sleep(0.002)
        if len(watch._worked.get("17000000.gpu", ())) > seen + 2:
            return
    raise AssertionError("nobody reads the clock")


def test_the_clock_of_a_pcs_gpu_is_read_while_it_works(tmp_path, monkeypatch):
    monkeypatch.setattr(gates, "SAMPLE", 0.002)
    asked = threading.Event()

    class Gpu(nvml.Watched):
        def look(self) -> None:
            if threading.current_thread() is not threading.main_thread():
                asked.set()

    watch = gates.Watch(plant(tmp_path, WHOLE), Gpu(None))
    with watch.block("timed", gpu=True):  # asking the driver would be timed
        time.sleep(0.02)
    assert not asked.is_set()
    with watch.working():
        assert asked.wait(10)


def test_temperatures_are_kept_around_each_stretch(tmp_path):
    root = plant(tmp_path, WHOLE)
    watch = gates.Watch(root)
    with watch.block("a"):
        plant(tmp_path, {ZONE + "temp": "60000"})
    plant(tmp_path, {ZONE + "temp": "50000"})
    with watch.block("b"):
        pass
    assert watch.blocks == [
        {"what": "a", "start_c": 41.5, "end_c": 60.0},
        {"what": "b", "start_c": 50.0, "end_c": 50.0},
    ]
    assert watch.max_c == 60.0


def test_a_placeholder_of_the_board_is_no_temperature(tmp_path):
    pmic = {"sys/class/thermal/thermal_zone9/type": "PMIC-Die", "sys/class/thermal/thermal_zone9/temp": "100000"}
    assert environment.temperature(plant(tmp_path, {**PC, **pmic})) == 41.5
    assert [zone.name for zone in environment.zones(str(tmp_path))] == ["thermal_zone0"]


def test_this_machine_can_be_watched():
    watch = gates.Watch("/")
    verdicts: Iterator[str] = (gate.verdict for gate in watch.gates(None, environment.collect()))
    assert set(verdicts) <= {"passed", "warning", "failed", "not measured"}
