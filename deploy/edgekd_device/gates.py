"""Validity gates: what the machine did while it was timed, as far as any Linux says it (card device_harness 3.5).

A gate that fails makes the report invalid; one whose files cannot be read is "not measured", never passed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from . import environment, nvml, pinning, thermal
from .environment import number, read
from .errors import GateFailed
from .records import DeviceReport, Gate

MARGIN_C = 5.0  # every zone stays this far below the temperature at which the kernel slows the machine
SAMPLE = 0.1  # s between two readings of the GPU's clock while it works
# Event counters (of PCs, of Jetson boards) that must not move, as folder and pattern.
COUNTERS = (
    ("sys/devices/system/cpu", "cpu[0-9]*/thermal_throttle/*_throttle_count"),
    ("sys/class/hwmon", "hwmon*/oc*_event_cnt"),
)
ALERTS = ("throttle-alert", "hot-surface-alert")  # endings of the types of cooling devices whose state must stay 0
NO_ZONE = "no thermal zone can be read"


def refuse_invalid(report: DeviceReport) -> None:
    """Raise GateFailed with every reason where ``report`` is not valid; for whoever asked for the measurement itself.

    A run that measures on its way goes on instead, and its own report says the same.
    """
    if not report.valid:
        raise GateFailed(
            "The measurement is not valid, so none of its figures may be quoted: {}. Fix what is named here, "
            "then measure again.".format("; ".join(report.invalid_reasons))
        )


class Watch:
    """Looks at the machine between timed stretches; a reader in between would disturb what is timed.

    A GPU's clock alone is read while the GPU works too, as idle it says little: of a board, one small file, in every stretch;
    of a PC, whose driver is asked, only in the pass that the GPU's own events time.
    """

    def __init__(self, root: str, gpu: nvml.Watched | None = None) -> None:
        self.blocks: list[dict[str, Any]] = []
        self.max_c: float | None = None
        self._root, self._gpu = root, gpu
        self._lost = False  # a reading without a zone
        self._tightest: tuple[float, str] | None = None  # °C below the trip point, in words
        self._untripped = False  # a reading whose zones name no passive trip point
        self._alerts: dict[str, int] = {}
        self._speeds: list[dict[str, dict[str, environment.Clock]]] = []  # all readings
        self._worked: dict[str, list[float | None]] = {}  # clock of a GPU -> MHz, while it worked
        self._counters, self._swap = counters(root), swapped_pages(root)
        self.look()

    def look(self) -> float | None:
        """The hottest zone now, in °C; the zone next to its trip point, every alert's state and every clock are kept."""
        self._speeds.append(environment.clocks(self._root))
        if self._gpu is not None:
            self._gpu.look()
        for name, state in alerts(self._root).items():
            self._alerts[name] = max(state, self._alerts.get(name, 0))
        zones = environment.zones(self._root)
        if not zones:
            self._lost = True
            return None
        hottest = max(zone.celsius for zone in zones)
        self.max_c = hottest if self.max_c is None else max(self.max_c, hottest)
        margins = []
        for zone in zones:  # a cooler one may be nearer to where it is slowed
            trip = passive_trip(self._root, zone.folder)
            if trip is not None:
                words = f"{zone.name} at {zone.celsius:.1f} °C, is slowed at {trip:.1f} °C"
                margins.append((trip - zone.celsius, words))
        self._untripped |= not margins
        self._tightest = min([*margins, *filter(None, [self._tightest])], default=None)
        return hottest

    @contextlib.contextmanager
    def block(self, what: str, gpu: bool = False) -> Iterator[None]:
        """A timed stretch: the temperatures before and after it go into ``blocks``. gpu: what is timed computes on one."""
        before = self.look()
        with self.working(driver=False) if gpu else contextlib.nullcontext():
            yield
        self.blocks.append({"what": what, "start_c": before, "end_c": self.look()})

    @contextlib.contextmanager
    def working(self, driver: bool = True) -> Iterator[None]:
        """A stretch in which the GPU works: its clock, if any, is read ten times a second (card 3.5). driver: a PC's is asked too.

        Of a board one file that stays open, so that little of Python runs beside the thread that gives the GPU its work.
        """
        done = threading.Event()
        with contextlib.ExitStack() as stack:
            files = {}
            for name, folder in environment.gpus(self._root).items():
                with contextlib.suppress(OSError):
                    path = Path(self._root) / folder / "cur_freq"
                    files[name] = stack.enter_context(path.open("rb", buffering=0)).fileno()
            asked = self._gpu if driver else None
            if asked is None and not files:
                yield
                return

            def sample() -> None:
                pinning.unpin()
                while not done.wait(SAMPLE):
                    if asked is not None:
                        asked.look()
                    for name, file in files.items():
                        self._worked.setdefault(name, []).append(_megahertz(file))

            thread = threading.Thread(target=sample, daemon=True)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()

    def gates(self, soak: Mapping[str, Any] | None, around: Mapping[str, Any]) -> tuple[Gate, ...]:
        """Every gate, judged now.

        soak: what `thermal.soak` returned; around: `environment.collect` from before the first timed stretch.
        """
        self.look()
        machine = (
            _soaked(soak),
            self._heat(),
            self._throttling(),
            self._swapping(),
            *self._clocks(around),
            _load(around),
        )
        return machine if self._gpu is None else (*machine, *self._gpu.gates())

    def thermal(self, soak: Mapping[str, Any] | None) -> dict[str, Any]:
        """What a report keeps of heat, and of the GPU of a PC where one computes."""
        found = {"soak": soak, "blocks": self.blocks, "max_c": self.max_c}
        return found if self._gpu is None else {**found, "gpu": self._gpu.said()}

    def _heat(self) -> Gate:
        name, limit = "hottest zone", f"every zone {MARGIN_C:g} °C or more below its first passive trip point"
        if self._tightest is not None and self._tightest[0] < MARGIN_C:
            return Gate(name, limit, "failed", self._tightest[1])
        if self._lost:
            return Gate(name, limit, "not measured", NO_ZONE)
        if self._untripped or self._tightest is None:
            return Gate(name, limit, "not measured", "no zone names a passive trip point")
        return Gate(name, limit, "passed", self._tightest[1])

    def _throttling(self) -> Gate:
        name, limit = "throttling", "no throttle or over-current event"
        now = counters(self._root)
        moved = [
            f"{key} went from {old} to {now[key]}" for key, old in self._counters.items() if now.get(key, old) != old
        ]
        moved += [f"{key} in state {state}" for key, state in self._alerts.items() if state]
        if moved:
            return Gate(name, limit, "failed", ", ".join(moved[:3]))
        if not self._counters and not self._alerts:
            return Gate(name, limit, "not measured", "no counter can be read")
        if set(now) != set(self._counters):
            return Gate(name, limit, "not measured", "a counter came or went")
        return Gate(name, limit, "passed", f"{len(now) + len(self._alerts)} counters unchanged")

    def _clocks(self, around: Mapping[str, Any]) -> tuple[Gate, ...]:
        """The processor's clocks, and the GPU's where there is one, or must be, as on a Jetson."""
        gpu = self._speeds[0]["GPU"] or around["l4t"] is not None
        return tuple(self._clock(kind) for kind in (("GPU", "CPU") if gpu else ("CPU",)))

    def _clock(self, kind: str) -> Gate:
        name, limit = f"{kind} clocks", "minimum and maximum equal, and unchanged"
        readings = [found[kind] for found in self._speeds]
        if not readings[0]:
            return Gate(name, limit, "not measured", "no clock can be read")
        worked = {what: values for what, values in self._worked.items() if what in readings[0]}
        known = {what: [value for value in values if value is not None] for what, values in worked.items()}
        moved = {what: values for what, values in known.items() if values and not environment.steady(values)}
        if moved:  # pinned or not: these are the times that would be quoted
            return Gate(name, limit, "failed", _moving(moved) + " while it worked; pin it (Jetson: sudo jetson_clocks)")
        free = {what: clock.readings for what, clock in readings[0].items() if not environment.steady(clock.readings)}
        if free:  # the card runs on with clocks that are not pinned, and says so
            return Gate(name, limit, "warning", _moving(free))
        seen = {what: [v for found in readings if what in found for v in found[what].readings] for what in readings[0]}
        for what, values in known.items():
            seen[what] += values
        moved = {what: values for what, values in seen.items() if not environment.steady(values)}
        if moved:
            return Gate(name, limit, "failed", _moving(moved))
        if any(set(found) != set(seen) for found in readings) or any(None in values for values in worked.values()):
            return Gate(name, limit, "not measured", "a clock came or went")
        return Gate(name, limit, "passed", f"pinned at {max(max(values) for values in seen.values()):g} MHz")

    def _swapping(self) -> Gate:
        name, limit, now = "swap", "0 pages", swapped_pages(self._root)
        if now is None or self._swap is None:
            return Gate(name, limit, "not measured", "proc/vmstat does not say it")
        moved = now - self._swap
        return Gate(name, limit, "failed" if moved else "passed", f"{moved} pages moved")


def _soaked(soak: Mapping[str, Any] | None) -> Gate:
    name = "heat soak"
    limit = f"hottest zone moved less than {thermal.MOVED_C:g} °C in {thermal.WINDOW:g} s"
    if soak is None:
        return Gate(name, limit, "not measured", NO_ZONE)
    moved = "" if soak["moved_c"] is None else f"moved {soak['moved_c']:.1f} °C, "
    verdict = "passed" if soak["steady"] else "failed"
    return Gate(name, limit, verdict, f"{moved}{soak['end_c']:.1f} °C after {soak['seconds']:.0f} s")


def _megahertz(file: int) -> float | None:
    """What a clock's open file says now; None where it says nothing."""
    try:
        return float(os.pread(file, 32, 0)) / 1e6
    except (OSError, ValueError):
        return None


def _moving(clocks: Mapping[str, Sequence[float]]) -> str:
    """The first of the clocks that move, in words."""
    name, values = next(iter(clocks.items()))
    return f"{name} between {min(values):g} and {max(values):g} MHz"


def _load(around: Mapping[str, Any]) -> Gate:
    name, limit = "other load", f"load average at most {environment.BUSY:g} per core, before"
    if around["load"] is None:
        return Gate(name, limit, "not measured", "no load average can be read")
    busy = around["load"] > environment.BUSY * around["cores_usable"]
    found = "load average {:g} on {} cores".format(around["load"], around["cores_usable"])
    return Gate(name, limit, "warning" if busy else "passed", found)


def passive_trip(root: str, folder: str) -> float | None:
    """The lowest passive trip point of the thermal zone in ``folder``, in °C; None where it names none."""
    points = []
    for kind in (Path(root) / folder).glob("trip_point_*_type"):
        if read(root, f"{folder}/{kind.name}") == "passive":
            value = number(read(root, f"{folder}/{kind.name[: -len('type')]}temp"))
            if value is not None and value > 0:  # firmware writes 0 or less for a trip point that is switched off
                points.append(value / 1000)
    return min(points, default=None)


def counters(root: str) -> dict[str, int]:
    """Every throttle and over-current counter that can be read: name -> events so far."""
    found = {}
    for folder, pattern in COUNTERS:
        for path in sorted((Path(root) / folder).glob(pattern)):
            value = number(read(root, str(path.relative_to(root))))
            if value is not None:
                found[str(path.relative_to(Path(root) / folder))] = int(value)
    return found


def alerts(root: str) -> dict[str, int]:
    """The state of every cooling device that stands for an alarm: name -> 0 where all is well."""
    found = {}
    for path in sorted((Path(root) / "sys/class/thermal").glob("cooling_device*")):
        folder = str(path.relative_to(root))
        kind, state = read(root, folder + "/type") or "", number(read(root, folder + "/cur_state"))
        if kind.endswith(ALERTS) and state is not None:
            found[f"{path.name} ({kind})"] = int(state)
    return found


def swapped_pages(root: str) -> int | None:
    """Pages moved to and from swap since the machine started; None where it does not say."""
    lines = dict(line.split()[:2] for line in (read(root, "proc/vmstat") or "").splitlines() if len(line.split()) >= 2)
    values = [number(lines.get(name)) for name in ("pswpin", "pswpout")]
    known = [int(value) for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
