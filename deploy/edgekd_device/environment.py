"""What a reader needs to judge a timing: hardware, load, clocks and versions; no host name, user name or path.

Every reader takes the root of the file system, so that tests bring their own /proc and /sys.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any, NamedTuple

from . import __version__

PACKAGES = ("numpy", "onnxruntime")
BUSY = 0.5  # load average per core above which something else is running
# A container is not shown the first place; this is where NVIDIA's own container scripts put the name.
BOARD_IN_A_CONTAINER = "tmp/nv_jetson_model"
# Zones that hold a placeholder of the board instead of a temperature.
PLACEHOLDERS = ("pmic",)


class Zone(NamedTuple):
    """One thermal zone: its type, its folder below the root, its temperature."""

    name: str
    folder: str
    celsius: float


def collect(root: str = "/") -> dict[str, Any]:
    """Hardware and software as plain JSON; None means that this machine does not say."""
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
        "temperature_c": temperature(root),
        "board": read(root, "proc/device-tree/model") or read(root, BOARD_IN_A_CONTAINER),
        "l4t": _match(root, "etc/nv_tegra_release", r"^# (R\d+ \(release\), REVISION: [\d.]+)"),
        "power_mode": _match(root, "var/lib/nvpmodel/status", r"pmode:(\d+)"),
    }
    for package in PACKAGES:
        found[package] = version_of(package)
    return found


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


def faults(found: dict[str, Any]) -> dict[str, str]:
    """Why timings from here are not to be trusted: reason -> invalid (the figure must not be quoted) or a warning."""
    reasons = {}
    if found["load"] is not None and found["load"] > BUSY * found["cores_usable"]:
        reasons["the machine was busy before: load average {:g}".format(found["load"])] = "warning"
    if found["governor"] not in (None, "performance"):
        reasons["clocks not pinned: governor {}".format(found["governor"])] = "warning"
    if found["l4t"] is not None:
        for name in ("power_mode", "temperature_c"):
            if found[name] is None:
                reasons["this Jetson does not say its {}".format(name.replace("_", " "))] = "invalid"
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
