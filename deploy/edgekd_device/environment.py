"""What a reader needs to judge a timing: hardware, load, clocks and versions; no host name, user name or path.

Every reader takes the root of the file system, so that tests bring their own /proc and /sys.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence

from . import __version__
from .errors import EnvironmentFault

PACKAGES = ("numpy", "onnxruntime")
MODES = "etc/nvpmodel.conf"  # which power mode has which number on this board
BY_NUMBER = "number "
MEMORY_CAPS = ("sys/kernel/nvpmodel_clk_cap/emc", "sys/kernel/nvpmodel_emc_cap/emc_iso_cap")  # JetPack 6, 5
BUSY = 0.5  # load average per core above which something else is running
# A container is not shown the first place; this is where NVIDIA's own container scripts put the name.
BOARD_IN_A_CONTAINER = "tmp/nv_jetson_model"
# Zones that hold a placeholder of the board instead of a temperature.
PLACEHOLDERS = ("pmic",)
GPUS = ("gpu", "ga10b", "gv11b", "gp10b", "gpc")  # parts of the names of the devices that have a GPU's clock
# What a Jetson's figures are nothing without (card device_harness 1.6), and how a message calls it.
RECORDED = {"power_mode": "power mode", "temperature_c": "temperature"}
MADE_FOR = "EDGEKD_L4T"  # in docker/Dockerfile.jetson's images: the JetPack Linux their base is made for
HELD = 1.01  # a clock whose readings differ by less stands still (card device_harness 3.5)


class Zone(NamedTuple):
    """One thermal zone: its type, its folder below the root, its temperature."""

    name: str
    folder: str
    celsius: float


class Clock(NamedTuple):
    """One clock in MHz: where it may move to, and where it is; None where that is not looked at."""

    low: float
    high: float
    now: float | None

    @property
    def readings(self) -> tuple[float, ...]:
        return (self.low, self.high) if self.now is None else (self.low, self.high, self.now)


def collect(root: str = "/") -> dict[str, Any]:
    """Hardware and software as plain JSON; None means that this machine does not say."""
    speeds = clocks(root)
    found: dict[str, Any] = {
        "edgekd": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernel": platform.release().split("-")[0],  # the rest may name a build host
        "os": _match(root, "etc/os-release", r'^PRETTY_NAME="?([^"\n]*)'),
        "cpu": _match(root, "proc/cpuinfo", r"^(?:model name|Model|Hardware)\s*:\s*(.+)$"),
        "cores": os.cpu_count(),
        "cores_usable": len(usable_cores()),
        "load": number(_match(root, "proc/loadavg", r"^([\d.]+)")),
        "memory_mb": _megabytes(root, "MemTotal"),
        "memory_available_mb": _megabytes(root, "MemAvailable"),
        "swap_used_mb": _swap(root),
        "governor": read(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "cpu_khz": number(read(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")),
        "cpu_khz_max": number(read(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq")),
        "clocks": {kind: _span(found) for kind, found in speeds.items()},
        "clocks_pinned": pinned(speeds),
        # what a power mode caps beside the clocks (card device_harness 8.3): memory in Hz, and a bit per part of the GPU that is off
        "memory_hz_cap": next((v for v in (number(read(root, name)) for name in MEMORY_CAPS) if v), None),
        "tpc_pg_mask": next((read(root, str(f)) for f in _below(root, "sys/devices/platform", "*/tpc_pg_mask")), None),
        "temperature_c": temperature(root),
        **board(root),
    }
    for package in PACKAGES:
        found[package] = version_of(package)
    return found


def board(root: str = "/") -> dict[str, str | None]:
    """What a Jetson is: ``board``, ``l4t`` and ``power_mode``, each None where it is none or does not say."""
    return {
        "board": read(root, "proc/device-tree/model") or read(root, BOARD_IN_A_CONTAINER),
        "l4t": _match(root, "etc/nv_tegra_release", r"^# (R\d+ \(release\), REVISION: [\d.]+)"),
        "power_mode": power_mode(root),
    }


def refuse_misfit(root: str = "/") -> None:
    """Raise EnvironmentFault in a container whose base is made for another JetPack than the board's (card device_harness 9.1).

    Where the image's release (such as 36.4) or the board's is not known, nothing is said.
    """
    image, l4t = os.environ.get(MADE_FOR, ""), board(root)["l4t"]
    wanted, found = _family(re.search(r"^(\d+)(?:\.(\d+))?", image)), _family(re.search(r"R(\d+).*?(\d+)", l4t or ""))
    if wanted is not None and found is not None and wanted != found:
        raise EnvironmentFault(
            f"This image was made for a board with JetPack Linux {wanted}, but this one has {found} ({l4t}), so "
            "the image's TensorRT does not fit the driver. Build the image for this board; the first lines of "
            "docker/Dockerfile.jetson say how."
        )


def _family(release: re.Match[str] | None) -> str | None:
    """The releases that run each other's images."""
    if release is None:
        return None
    major, minor = int(release[1]), int(release[2] or 0)
    if major == 36:
        return "36.4 or later" if minor >= 4 else "36 before 36.4"
    return "38 or 39" if major in (38, 39) else str(major)


def memory_available(root: str = "/") -> int | None:
    """Bytes that can be had without swapping; None where the machine does not say it."""
    found = _megabytes(root, "MemAvailable")
    return None if found is None else found << 20


def clocks(root: str = "/") -> dict[str, dict[str, Clock]]:
    """The clocks under "GPU" (with where they are) and "CPU" (per core that is on), by their names."""
    found: dict[str, dict[str, Clock]] = {"GPU": {}, "CPU": {}}
    for name, folder in gpus(root).items():
        values = [number(read(root, f"{folder}/{end}_freq")) for end in ("min", "max", "cur")]
        known = [value / 1e6 for value in values if value is not None]
        if len(known) == len(values):
            found["GPU"][name] = Clock(*known)
    for folder in _below(root, "sys/devices/system/cpu", "cpu[0-9]*/cpufreq"):
        low, high = (number(read(root, f"{folder}/scaling_{end}_freq")) for end in ("min", "max"))
        if low is not None and high is not None:
            found["CPU"][folder.parent.name] = Clock(low / 1e3, high / 1e3, None)
    return found


def gpus(root: str = "/") -> dict[str, str]:
    """Name -> folder below the root of every device that has a clock of a board's GPU."""
    folders = _below(root, "sys/class/devfreq", "*")
    return {folder.name: str(folder) for folder in folders if any(part in folder.name for part in GPUS)}


def steady(values: Sequence[float]) -> bool:
    """Whether readings of a clock are all the same."""
    return max(values) <= HELD * min(values)


def pinned(found: Mapping[str, Mapping[str, Clock]]) -> bool | None:
    """Whether every clock is held where it is (card device_harness 8.4); None where no clock can be read."""
    every = [clock for kind in found.values() for clock in kind.values()]
    return all(steady(clock.readings) for clock in every) if every else None


def _span(found: Mapping[str, Clock]) -> list[float] | None:
    """MHz: how low and how high the clocks of one kind may go."""
    return [min(c.low for c in found.values()), max(c.high for c in found.values())] if found else None


def power_mode(root: str = "/") -> str | None:
    """The name of a Jetson's power mode; its number where no name can be read, as numbers differ between boards."""
    chosen = _match(root, "var/lib/nvpmodel/status", r"pmode:(\d+)")
    if chosen is None:
        return None
    named = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([\w.-]+)", read(root, MODES) or "", re.MULTILINE)
    return next((name for k, name in named if int(k) == int(chosen)), f"{BY_NUMBER}{int(chosen)}")


def usable_cores() -> frozenset[int]:
    """The cores that the calling thread may run on; all of them where the platform does not say."""
    affinity = getattr(os, "sched_getaffinity", None)
    return frozenset(range(os.cpu_count() or 1) if affinity is None else affinity(0))


def version_of(package: str) -> str | None:
    """The installed version of ``package``, without importing it; None where it is absent."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def temperature(root: str = "/") -> float | None:
    """The hottest thermal zone in degrees Celsius; None where none can be read."""
    return max((zone.celsius for zone in zones(root)), default=None)


def zones(root: str = "/") -> list[Zone]:
    """Every thermal zone that can be read; sensors that are switched off say -256 and are left out."""
    found = []
    for file in _below(root, "sys/class/thermal", "thermal_zone*/temp"):
        folder, value = str(file.parent), number(read(root, str(file)))
        name = read(root, folder + "/type") or file.parent.name
        if value is not None and value > -200000 and not name.lower().startswith(PLACEHOLDERS):
            found.append(Zone(name, folder, value / 1000))
    return found


def faults(found: dict[str, Any], on_gpu: bool = True) -> dict[str, str]:
    """Why timings from here are not to be trusted: reason -> invalid (the figure must not be quoted) or a warning.

    on_gpu: something that was timed computes there, so that its clock counts.
    """
    reasons = {}
    if found["load"] is not None and found["load"] > BUSY * found["cores_usable"]:
        reasons["the machine was busy before: load average {:g}".format(found["load"])] = "warning"
    if found["clocks_pinned"] is False:
        reasons["the clocks were not pinned (Jetson: sudo jetson_clocks)"] = "warning"
    if found["l4t"] is not None:
        missing = [words for name, words in RECORDED.items() if found[name] is None]
        missing += [f"{kind} clocks" for kind in ("GPU", "CPU")[not on_gpu :] if found["clocks"][kind] is None]
        reasons.update(dict.fromkeys((f"this Jetson does not say its {words}" for words in missing), "invalid"))
        if str(found["power_mode"]).startswith(BY_NUMBER):
            reasons[f"the power mode is not known by name: /{MODES} cannot be read"] = "warning"
    return reasons


def read(root: str, name: str) -> str | None:
    """A small file of /proc or /sys as text; None where it is absent, unreadable or empty."""
    try:
        return (Path(root) / name).read_bytes().decode("utf-8", "replace").strip("\0 \n\t") or None
    except OSError:
        return None


def _below(root: str, folder: str, pattern: str) -> Any:
    return sorted(found.relative_to(root) for found in (Path(root) / folder).glob(pattern))


def _match(root: str, name: str, pattern: str) -> str | None:
    found = re.search(pattern, read(root, name) or "", re.MULTILINE)
    return found.group(1).strip() if found else None


def number(text: str | None) -> float | None:
    """``text`` as a number; None where it is none."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _megabytes(root: str, field: str) -> int | None:
    found = _match(root, "proc/meminfo", rf"^{field}:\s*(\d+) kB")
    return None if found is None else int(found) // 1024


def _swap(root: str) -> int | None:
    total, free = _megabytes(root, "SwapTotal"), _megabytes(root, "SwapFree")
    return None if total is None or free is None else total - free
