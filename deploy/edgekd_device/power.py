"""Energy, where the machine says it: a Jetson's INA rails, on a PC RAPL counters or NVML. Elsewhere: not measured.

Rails are module power: carrier board, fan and losses of the supply are not in it (card device_harness 10). RAPL is of the
processor alone, NVML of the GPU's board alone: each is asked only for a runtime that computes there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Protocol

from . import environment, nvml
from .environment import read

HERTZ = 20
# RAPL's zone of the whole platform: it holds what the package zones count, which would be added up twice.
PLATFORM = "psys"
# The rail that is the whole module, or else those whose sum is.
WHOLE = (("VDD_IN",), ("POM_5V_IN",), ("VIN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))


class Source(Protocol):
    """Something that says energy."""

    name: str
    rails: tuple[str, ...]

    def step(self, now: float) -> float | None:
        """Joules since the step before (0 at the first); None when a reading failed. now: seconds."""


class Rails:
    """INA rails: power readings, added up by the trapezoid rule."""

    name = "ina"

    def __init__(self, channels: dict[str, tuple[str, str]], root: str) -> None:
        chosen = next(names for names in WHOLE if all(name in channels for name in names))
        self.rails: tuple[str, ...] = chosen
        self._files = [channels[name] for name in chosen]
        self._root = root
        self._last: tuple[float, float] | None = None

    def step(self, now: float) -> float | None:
        watts = 0.0
        for volts, amperes in self._files:
            pair = _number(self._root, volts), _number(self._root, amperes)
            if pair[0] is None or pair[1] is None:
                return None
            watts += pair[0] * pair[1] / 1e6  # mV x mA
        last, self._last = self._last, (now, watts)
        return 0.0 if last is None else (watts + last[1]) / 2 * (now - last[0])


class Rapl:
    """RAPL package counters in microjoules, which wrap around."""

    name = "rapl"

    def __init__(self, zones: list[str], root: str) -> None:
        self.rails: tuple[str, ...] = tuple(read(root, zone + "/name") or "package" for zone in zones)
        self._zones = zones
        self._root = root
        self._last: list[float] = []

    def step(self, now: float) -> float | None:
        found = [_number(self._root, zone + "/energy_uj") for zone in self._zones]
        values = [value for value in found if value is not None]
        if len(values) < len(found):
            return None
        last, self._last = self._last or values, values
        joules = 0.0
        for zone, value, before in zip(self._zones, values, last):
            wrap = _number(self._root, zone + "/max_energy_range_uj") or 0.0
            joules += (value - before + (wrap if value < before else 0.0)) / 1e6
        return joules


class Board:
    """A PC's GPU: its counter of energy where it has one (from Volta on), else its power, added up by the trapezoid rule."""

    name = "nvml"
    rails: tuple[str, ...] = ("GPU board",)

    def __init__(self, gpu: nvml.Gpu) -> None:
        self._gpu = gpu
        self._counts = gpu.joules() is not None
        self._last: tuple[float, float] | None = None

    def step(self, now: float) -> float | None:
        value = self._gpu.joules() if self._counts else self._gpu.watts()
        if value is None:
            return None
        last, self._last = self._last or (now, value), (now, value)
        if not self._counts:
            return (value + last[1]) / 2 * (now - last[0])
        return value - last[1] if value >= last[1] else None  # back at 0: the driver was loaded anew


def find(root: str = "/", gpu: str | None = None) -> Source | None:
    """The machine's source of energy readings; None where there is none that may be read.

    gpu: where on the PCI bus the GPU is that computes, empty where that is not known; None where the processor does. Rails
    are of a whole module, and serve both.
    """
    channels = _ina_channels(root)
    if any(all(name in channels for name in names) for names in WHOLE):
        return Rails(channels, root)
    if environment.board(root)["l4t"] is not None:  # a part of a module's energy would pass for the whole
        return None
    if gpu is not None:
        board = nvml.find(gpu)
        return None if board is None or (board.joules(), board.watts()) == (None, None) else Board(board)
    zones = [
        str(zone.relative_to(root))
        for zone in sorted((Path(root) / "sys/class/powercap").glob("intel-rapl:*"))
        if zone.name.count(":") == 1 and read(root, str(zone.relative_to(root)) + "/name") != PLATFORM
    ]
    if zones and all(_number(root, zone + "/energy_uj") is not None for zone in zones):
        return Rapl(zones, root)
    return None


def _ina_channels(root: str) -> dict[str, tuple[str, str]]:
    """Label -> files with millivolts and milliamperes, of every INA3221, and of Thor's INA238, whose one channel is VIN."""
    channels = {}
    for chip in sorted((Path(root) / "sys/class/hwmon").glob("hwmon*")):
        base = str(chip.relative_to(root))
        kind = (read(root, base + "/name") or "").lower()
        if kind == "ina238":  # in0 is its shunt
            channels[read(root, base + "/in1_label") or "VIN"] = (base + "/in1_input", base + "/curr1_input")
        if kind != "ina3221":
            continue
        for k in (1, 2, 3):  # channel 7 is a sum
            label = read(root, f"{base}/in{k}_label")
            if label and label.upper() != "NC" and read(root, f"{base}/in{k}_enable") != "0":
                channels[label] = (f"{base}/in{k}_input", f"{base}/curr{k}_input")
    return channels


def _number(root: str, name: str) -> float | None:
    try:
        return float(read(root, name) or "")
    except ValueError:
        return None


class Energy(NamedTuple):
    """Energy over a stretch of time; joules is None when a reading failed on the way."""

    joules: float | None
    seconds: float
    samples: int


@contextlib.contextmanager
def metered(source: Source, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[], Energy]]:
    """Sample ``source`` in a thread; the function handed out gives the energy once the block has ended."""
    stop = threading.Event()
    started = ended = clock()
    joules = [None if source.step(started) is None else 0.0]

    def sample() -> None:
        while not stop.wait(1 / HERTZ):
            joules.append(source.step(clock()))

    def result() -> Energy:
        found = [value for value in joules if value is not None]
        return Energy(sum(found) if len(found) == len(joules) else None, ended - started, len(joules))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield result
    finally:
        stop.set()
        thread.join()
        ended = clock()
        joules.append(source.step(ended))


def measure(
    source: Source, work: Callable[[], int], idle_seconds: float, ready: Callable[[], object] = lambda: None
) -> dict[str, Any] | None:
    """Joules per inference, flat out, with and without what the idle machine takes; None when a reading failed.

    work: runs inferences and returns how many; the runtime is loaded and idle for ``idle_seconds`` before. ready: warms the
    machine up in between, which counts for neither.
    """
    with metered(source) as idle_energy:
        time.sleep(idle_seconds)
    ready()
    with metered(source) as load_energy:
        count = work()
    idle, load = idle_energy(), load_energy()
    if idle.joules is None or load.joules is None:
        return None
    idle_watts = idle.joules / idle.seconds
    return {
        "source": source.name,
        "rails": list(source.rails),
        "idle_w": idle_watts,
        "load_w": load.joules / load.seconds,
        "j_per_inference": load.joules / count,
        "j_net_per_inference": (load.joules - idle_watts * load.seconds) / count,
        "inferences": count,
        "samples": load.samples,
    }
