"""The one thread that is timed stays on one core, and has its cores back afterwards."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from test_harness_run import QUICK, Ticking, run
from test_machine import PC, ina, plant

from edgekd_device import environment, latency, pinning, power


def clocks(*kilohertz: str) -> dict[str, str]:
    return {pinning.FASTEST.format(core): value + "\n" for core, value in enumerate(kilohertz) if value}


class Cores:
    """An operating system with four cores, of which it hands out some."""

    def __init__(self, allowed: Iterable[int] = range(4)) -> None:
        self.now, self.refusal, self.asked = set(allowed), 0, []

    def get(self, thread: int) -> set[int]:
        assert thread == 0
        return set(self.now)

    def set(self, thread: int, cores: Iterable[int]) -> None:
        assert thread == 0
        self.asked.append(set(cores))
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))
        self.now = set(cores)


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Cores:
    found = Cores()
    monkeypatch.setattr(os, "sched_getaffinity", found.get)
    monkeypatch.setattr(os, "sched_setaffinity", found.set)
    return found


@pytest.mark.parametrize(
    ("allowed", "kilohertz", "found"),
    [
        ((0, 1, 2, 3), ("1800000", "2400000", "1800000", "1800000"), (1, 2400000.0)),
        ((0, 1, 2, 3), ("2400000", "2400000", "1800000", "1800000"), (1, 2400000.0)),
        ((0, 1, 2, 3), ("2400000", "1800000", "1800000", "1800000"), (0, 2400000.0)),
        ((0, 2, 3), ("1800000", "2400000", "1800000", "1500000"), (2, 1800000.0)),
        ((0, 1), ("", "1800000"), (1, 1800000.0)),
        ((0, 1, 2), (), (2, None)),
        ((0,), (), (0, None)),
    ],
)
def test_the_fastest_core_that_is_allowed(tmp_path, allowed, kilohertz, found):
    assert pinning.performance_core(allowed, plant(tmp_path, clocks(*kilohertz))) == found


def test_the_affinity_is_given_back_after_an_error_too(tmp_path, cores):
    root = plant(tmp_path, clocks("1800000", "1800000", "2400000"))
    seen = []

    def fail() -> None:
        with pinning.pinned(1, root) as said:
            seen.append((said, set(cores.now)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [("core 2, up to 2400 MHz", {2})]
    assert cores.now == {0, 1, 2, 3}


def test_more_than_one_thread_is_left_alone(tmp_path, cores):
    with pinning.pinned(2, str(tmp_path)) as said:
        assert (said, cores.asked) == ("not pinned: the runtime uses 2 threads", [])


def test_a_machine_that_refuses(tmp_path, cores):
    cores.refusal = errno.EPERM
    with pinning.pinned(1, str(tmp_path)) as said:
        assert said == "not pinned: Operation not permitted"
    assert cores.now == {0, 1, 2, 3}


def test_cores_that_are_gone_afterwards_lose_no_measurement(tmp_path, cores):
    with pinning.pinned(1, str(tmp_path)) as said:
        assert said == "core 3, no core tells its clock"
        cores.refusal = errno.EINVAL
    assert cores.asked[-1] == {0, 1, 2, 3}


def test_a_platform_without_affinity(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert environment.collect(str(tmp_path))["cores_usable"] == os.cpu_count()
    with pinning.pinned(1, str(tmp_path)) as said:
        assert said == "not pinned: this platform cannot do it"


# ---- in the harness --------------------------------------------------------------------------------------------------


class Noting(Ticking):
    """A clock that notes on which cores the thread that reads it may run."""

    def __init__(self, cores: Cores) -> None:
        super().__init__()
        self.cores, self.seen = cores, set()

    def __call__(self) -> int:
        self.seen.add(frozenset(self.cores.now))
        return super().__call__()


@pytest.fixture
def level(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def made(**changes: Any) -> None:
        monkeypatch.setitem(latency.LEVELS, "smoke", dataclasses.replace(QUICK, power=0.0, **changes))

    return made


def test_a_publishable_level_is_timed_on_one_core(pristine, cores, level):
    level(publishable=True)
    clock = Noting(cores)
    report = run(pristine, clock=clock)
    assert report.environment["pinning"] == "core 3, no core tells its clock"
    # the sessions are opened, with clock, on every core; all that is timed runs on one
    assert cores.asked == [{3}, {0, 1, 2, 3}]
    assert clock.seen == {frozenset(range(4)), frozenset({3})}
    assert cores.now == {0, 1, 2, 3}


def test_more_threads_are_said_in_the_report(pristine, cores, level):
    level(publishable=True)
    assert run(pristine, threads=2).environment["pinning"] == "not pinned: the runtime uses 2 threads"
    assert cores.asked == []


def test_smoke_pins_nothing(pristine, cores, level):
    level()
    assert "pinning" not in run(pristine).environment
    assert cores.asked == []


def test_an_error_in_a_timed_stretch_leaves_no_core_pinned(pristine, cores, level, monkeypatch):
    def fail(*arguments: Any) -> None:
        assert cores.now == {3}
        raise ZeroDivisionError

    level(publishable=True)
    monkeypatch.setattr(latency, "timed_block", fail)
    with pytest.raises(ZeroDivisionError):
        run(pristine)
    assert cores.now == {0, 1, 2, 3}


@pytest.mark.skipif(len(environment.usable_cores()) < 2, reason="needs two cores")
def test_energy_is_sampled_from_another_core_than_the_one_that_works(pristine, tmp_path, monkeypatch):
    """On the cores of this machine: a thread takes over the affinity of the one that starts it."""
    every, seen = environment.usable_cores(), []
    monkeypatch.setitem(latency.LEVELS, "smoke", dataclasses.replace(QUICK, power=0.12, sweep=0.0, publishable=True))
    step = power.Rails.step

    def noted(source: power.Rails, now: float) -> float | None:
        seen.append((threading.current_thread() is threading.main_thread(), environment.usable_cores()))
        return step(source, now)

    monkeypatch.setattr(power.Rails, "step", noted)
    report = run(pristine, root=plant(Path(tmp_path), {**PC, **ina(0, 1, "VDD_IN", "5000", "1000")}))
    assert report.power is not None
    assert {cores for main, cores in seen if not main} == {every}
    assert environment.usable_cores() == every
