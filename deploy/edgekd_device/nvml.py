"""A PC's GPU as NVML tells it: energy, power, clock, temperature, why it is slowed (card device_harness 10.1).

By ctypes on the library that comes with NVIDIA's driver, as for CUDA: pynvml would be one more package on the board for seven
functions. Which GPU is meant is said by its place on the PCI bus, as NVML counts others than CUDA does. A Jetson's own rails
and clocks are in /sys; these here are of a whole board in a PC, never to be held against a Jetson's.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_ulonglong, c_void_p
from typing import Any, Mapping

from . import environment
from .records import Gate

LIBRARY = "libnvidia-ml.so.1"
SM_CLOCK, GPU_SENSOR = 1, 0  # nvmlClockType_t, nvmlTemperatureSensors_t
# One function under two names: the second is that of drivers before 535.
REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
SLOWED = {0x08: "hardware slowdown", 0x20: "thermal slowdown", 0x40: "hardware thermal slowdown", 0x80: "power brake"}
CAPPED = 0x04  # at its power limit: what it is built for, flat out, but not what it could do
SILENT = "NVML does not say it of this GPU"


class Gpu:
    """Readings of one GPU, each None where it, or its driver, does not say."""

    def __init__(self, library: ctypes.CDLL, handle: c_void_p) -> None:
        self._library, self._handle = library, handle

    def _ask(self, kind: Any, name: str, *which: int) -> int | None:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            return None
        function.argtypes, function.restype = [c_void_p, *[c_int] * len(which), POINTER(kind)], c_int
        value = kind()
        return None if function(self._handle, *which, byref(value)) else int(value.value)

    def joules(self) -> float | None:
        """Energy since the driver was loaded; from Volta on."""
        found = self._ask(c_ulonglong, "nvmlDeviceGetTotalEnergyConsumption")
        return None if found is None else found / 1e3

    def watts(self) -> float | None:
        found = self._ask(c_uint, "nvmlDeviceGetPowerUsage")
        return None if found is None else found / 1e3

    def mhz(self) -> int | None:
        """The clock of its multiprocessors."""
        return self._ask(c_uint, "nvmlDeviceGetClockInfo", SM_CLOCK)

    def celsius(self) -> int | None:
        return self._ask(c_uint, "nvmlDeviceGetTemperature", GPU_SENSOR)

    def reasons(self) -> int | None:
        """Why its clocks are lower than they might be: bits, see ``SLOWED``."""
        found = [self._ask(c_ulonglong, name) for name in REASONS]
        return next((bits for bits in found if bits is not None), None)


def find(bus: str) -> Gpu | None:
    """The GPU at ``bus``, as "0000:01:00.0"; None where there is no NVML, or it knows none there."""
    try:
        library = ctypes.CDLL(LIBRARY)
        start, by_bus = library.nvmlInit_v2, library.nvmlDeviceGetHandleByPciBusId_v2
    except (OSError, AttributeError):
        return None
    handle = c_void_p()
    by_bus.argtypes = [c_char_p, POINTER(c_void_p)]
    # never shut down: it ends with the process, and others in it may have started it, too
    found = bool(bus) and not start() and not by_bus(bus.encode("ascii", "replace"), byref(handle))
    return Gpu(library, handle) if found else None


def bus(engine: Mapping[str, Any] | None) -> str | None:
    """Where the GPU is that runs an engine, empty where CUDA does not say; None where no GPU computes."""
    return None if engine is None else str(engine.get("bus") or "")


def watched(engine: Mapping[str, Any] | None, around: Mapping[str, Any]) -> Watched | None:
    """What looks at the GPU of an engine between timed stretches; None without one, and on a Jetson, whose /sys says it."""
    place = bus(engine)
    return None if place is None or around["l4t"] is not None else Watched(find(place))


class Watched:
    """What a GPU said between timed stretches. gpu: None where it cannot be asked, and then nothing is measured."""

    def __init__(self, gpu: Gpu | None) -> None:
        self._gpu = gpu
        self._read: list[tuple[int | None, int | None, int | None]] = []  # MHz, °C, reasons

    def look(self) -> None:
        if self._gpu is not None:
            self._read.append((self._gpu.mhz(), self._gpu.celsius(), self._gpu.reasons()))

    def said(self) -> dict[str, Any]:
        """The span of its clock in MHz and its highest temperature; None for what was not read."""
        clocks = [mhz for mhz, _, _ in self._read if mhz is not None]
        degrees = [celsius for _, celsius, _ in self._read if celsius is not None]
        return {"mhz": [min(clocks), max(clocks)] if clocks else None, "max_c": max(degrees) if degrees else None}

    def gates(self) -> tuple[Gate, ...]:
        return self._throttling(), self._clock()

    def _throttling(self) -> Gate:
        name, limit = "GPU throttling", "not slowed for heat or power"
        seen = [bits for *_, bits in self._read]
        together, known = 0, [bits for bits in seen if bits is not None]
        for bits in known:
            together |= bits
        slowed = [words for bit, words in SLOWED.items() if bit & together]
        if slowed:
            return Gate(name, limit, "failed", ", ".join(slowed))
        if not known or len(known) < len(seen):
            return Gate(name, limit, "not measured", SILENT)
        if together & CAPPED:
            return Gate(name, limit, "warning", "held at its power limit")
        return Gate(name, limit, "passed", f"in {len(known)} readings")

    def _clock(self) -> Gate:
        """NVML does not say whether a clock is pinned, so one that moves is a warning, as one that may move elsewhere."""
        name, limit = "GPU clocks", "unchanged"
        span = self.said()["mhz"]
        if span is None or any(row[0] is None for row in self._read):
            return Gate(name, limit, "not measured", SILENT)
        if not environment.steady(span):
            found = "between {} and {} MHz: pin it, nvidia-smi --lock-gpu-clocks".format(*span)
            return Gate(name, limit, "warning", found)
        return Gate(name, limit, "passed", f"{span[1]} MHz")
