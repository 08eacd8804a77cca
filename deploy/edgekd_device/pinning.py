"""One core for the one thread that is timed: a scheduler that moves it would leave its caches behind.

With one thread onnxruntime computes in the thread that calls it, and that one is pinned. Further threads of a runtime
take over the affinity of the moment at which its session was opened, so with more than one nothing is pinned.
"""

from __future__ import annotations

import contextlib
import os
from typing import Callable, Iterable, Iterator

from .environment import number, read, usable_cores

FASTEST = "sys/devices/system/cpu/cpu{}/cpufreq/cpuinfo_max_freq"


def performance_core(cores: Iterable[int], root: str = "/") -> tuple[int, float | None]:
    """Of ``cores`` the one with the highest maximum clock, and that clock in kHz, None where no core says one.

    Among equals the last: core 0 is where most machines handle their interrupts.
    """
    speed, core = max((number(read(root, FASTEST.format(core))) or 0.0, core) for core in cores)
    return core, speed or None


def unpin() -> None:
    """Let the calling thread run on every core: one that reads beside a pinned thread must not take that one's."""
    pin: Callable[[int, Iterable[int]], None] | None = getattr(os, "sched_setaffinity", None)
    if pin is not None:
        with contextlib.suppress(OSError):
            pin(0, range(os.cpu_count() or 1))


@contextlib.contextmanager
def pinned(threads: int, root: str = "/") -> Iterator[str]:
    """Keep the calling thread on the performance core, and give it its cores back at the end.

    Threads that it starts meanwhile stay on that core as well. threads: of the runtime. Yields what a report says of
    it, "core N" or "not pinned" and why.
    """
    pin: Callable[[int, Iterable[int]], None] | None = getattr(os, "sched_setaffinity", None)
    if threads != 1:
        yield f"not pinned: the runtime uses {threads} threads"
        return
    if pin is None:
        yield "not pinned: this platform cannot do it"
        return
    before = usable_cores()
    core, speed = performance_core(before, root)
    said = f"core {core}, " + ("no core tells its clock" if speed is None else f"up to {speed / 1000:g} MHz")
    try:
        pin(0, {core})
    except OSError as error:  # a container may forbid it
        said = f"not pinned: {error.strerror}"
    try:
        yield said
    finally:
        # cores that were taken away from this process meanwhile are no reason to lose what was measured
        with contextlib.suppress(OSError):
            pin(0, before)
