"""Latency on a synthetic clock, and the statistics against the method card's test vectors."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from edgekd_device import latency
from edgekd_device.errors import UsageError
from edgekd_device.latency import Level
from edgekd_device.metrics import wilson

MS = 1_000_000
QUICK = Level("quick", 3, 0.5, 60, 20, 0.1, 0.05, 2.0, 4)


class Machine:
    """A clock that only moves while something is inferred; ``times`` are the latencies in nanoseconds."""

    def __init__(self, times: Iterator[int] | int) -> None:
        self.now, self.seen = 0, []
        self._times = iter(lambda: times, None) if isinstance(times, int) else times

    def clock(self) -> int:
        return self.now

    def infer(self, image: int) -> None:
        self.seen.append(image)
        self.now += next(self._times)


def numbers(*pattern: int) -> Iterator[int]:
    while True:
        yield from pattern


def measure(machine: Machine, level: Level = QUICK, steady: bool = True) -> latency.Latency:
    samples = level.samples // level.blocks
    blocks = [
        latency.timed_block(machine.infer, range(4), level.seconds, samples, machine.clock) for _ in range(level.blocks)
    ]
    return latency.summarise(blocks, level, threads=1, steady=steady)


@pytest.mark.parametrize(
    ("n", "fraction", "ranks"),
    [
        (1000, 0.5, (469, 532)),
        (1000, 0.9, (881, 919)),
        (1000, 0.99, (983, 997)),
        (10000, 0.99, (9880, 9920)),
        (100, 0.99, None),
        (459, 0.99, (450, 459)),
        (3, 0.5, None),
    ],
)
def test_ranks_of_a_percentiles_interval(n, fraction, ranks):
    assert latency.quantile_ci_ranks(n, fraction) == ranks


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(0, 9000, 0.0, 0.000427), (9, 9000, 0.000526, 0.001900), (450, 9000, 0.04569, 0.05470)],
)
def test_wilson_interval(hits, total, low, high):
    assert wilson(hits, total) == pytest.approx((low, high), abs=6e-6)


@pytest.mark.parametrize(
    ("fraction", "fewest"),
    [
        (0.5, (7, 11, 14, 22, 35)),
        (0.9, (44, 64, 81, 127, 197)),
        (0.95, (90, 130, 165, 259, 398)),
        (0.99, (459, 662, 838, 1307, 2010)),
        (0.999, (4603, 6636, 8403, 13105, 20140)),
    ],
)
def test_fewest_samples_for_a_bound(fraction, fewest):
    assert tuple(latency.min_queries(over, fraction) for over in (0, 1, 2, 5, 10)) == fewest


def test_early_stopping_bound_lies_above_the_percentile():
    uniform = (np.arange(10_000) + 0.5) / 10_000
    assert 0.904 < latency.early_stop(uniform, 0.9) < 0.908
    assert 0.992 < latency.early_stop(uniform, 0.99) < 0.993
    assert latency.early_stop(uniform[:600], 0.99) is None


@pytest.mark.parametrize("n", [7, 63, 64, 80, 81, 126, 127, 500])
def test_early_stopping_equals_the_search_over_min_queries(n):
    found = latency.early_stop(list(map(float, range(n))), 0.9)
    allowed = 0 if found is None else n - int(found)
    assert allowed == 0 or latency.min_queries(allowed, 0.9) <= n
    assert latency.min_queries(allowed + 1, 0.9) > n


def test_constant_latency():
    found = measure(Machine(2 * MS))
    assert (found.p50_ms, found.p90_ms, found.mean_ms, found.max_ms) == (2.0, 2.0, 2.0, 2.0)
    assert found.count == 3 * 250
    assert found.p99_ms == 2.0
    assert found.p999_ms is None
    assert found.block_p50_ms == (2.0, 2.0, 2.0)
    assert found.p50_interval_ms == pytest.approx((2.0, 2.0))
    assert (found.valid, found.over_twice_p50, found.lag1) == (True, 0, None)


def test_inputs_are_cycled_and_the_minimum_count_is_kept():
    machine = Machine(100 * MS)
    times = latency.timed_block(machine.infer, range(3), 0.5, 8, machine.clock)
    assert times.tolist() == [100 * MS] * 8
    assert machine.seen == [0, 1, 2, 0, 1, 2, 0, 1]


def test_more_samples_than_the_array_was_made_for():
    machine = Machine(1000)
    assert len(latency.timed_block(machine.infer, range(2), 0.1, 1, machine.clock)) == 100_000


@pytest.mark.parametrize("before", [True, False])
def test_no_garbage_collection_while_timing(before):
    states = []
    machine = Machine(MS)
    was = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()

        def infer(image: int) -> None:
            states.append(gc.isenabled())
            machine.infer(image)

        latency.timed_block(infer, range(2), 0.01, 1, machine.clock)
        assert not any(states)
        assert gc.isenabled() is before
    finally:
        (gc.enable if was else gc.disable)()


def test_slow_outliers_are_counted_and_kept():
    found = measure(Machine(numbers(*[MS] * 99, 30 * MS)))
    assert found.max_ms == 30.0
    assert found.p50_ms == 1.0
    assert found.over_twice_p50 == found.count // 100
    assert found.lag1 == pytest.approx(-0.01, abs=0.005)


def test_bimodal_and_p99_only_with_enough_samples():
    found = measure(Machine(numbers(MS, 3 * MS)))
    assert (found.p50_ms, found.p90_ms) == (1.0, 3.0)
    assert found.lag1 == pytest.approx(-1.0, abs=0.02)
    few = measure(Machine(10 * MS))
    assert few.count == 150
    assert few.p99_ms is None
    assert few.p90_bound_ms == 10.0
    assert few.p99_bound_ms is None


def test_blocks_that_differ_are_not_valid():
    found = measure(Machine(iter([MS] * 500 + [2 * MS] * 100_000)))
    assert not found.valid
    assert found.notes == ("block medians differ by 100.0 %",)
    assert found.block_p50_ms == (1.0, 2.0, 2.0)


def test_every_fault_is_said():
    level, blocks = latency.LEVELS["smoke"], [np.full(9, MS), np.full(9, 2 * MS)]
    every = ("no steady state within 0 s of warm-up", "block medians differ by 100.0 %")
    assert latency.faults(blocks, level, steady=False) == every
    found = latency.summarise(blocks, level, 1, steady=False)
    assert (found.valid, found.notes[:-1]) == (False, every)  # last: what the level is good for
    assert latency.faults(blocks[:1], level) == ()


def test_one_block_has_an_interval_by_order_statistics():
    level = Level("quick", 1, 1.0, 1, 1, 0.1, 0.1, 0.0, 4)
    found = measure(Machine(iter(range(MS, 2 * MS, 1000))), level)
    assert found.p50_interval_ms is not None
    assert found.p50_interval_ms[0] < found.p50_ms < found.p50_interval_ms[1]
    assert measure(Machine(2_000 * MS), level).p50_interval_ms is None


def test_levels_say_what_they_are_good_for():
    times = [np.full(10, MS)]
    assert latency.summarise(times, latency.LEVELS["smoke"], 1).notes == (
        "smoke level: for orientation, not for publication",
    )
    assert "run it three times" in latency.summarise(times, latency.LEVELS["official"], 1).notes[0]
    assert latency.summarise(times, latency.LEVELS["standard"], 1).notes == ()
    assert not latency.summarise(times, latency.LEVELS["standard"], 1, steady=False).valid
    assert latency.level_named("smoke").blocks == 1


def test_what_each_level_asks_for():
    found = {name: (level.multistream, level.soak, level.publishable) for name, level in latency.LEVELS.items()}
    assert found == {"smoke": (0, 0, False), "standard": (60, 600, True), "official": (600, 600, True)}
    assert [latency.LEVELS[name].sweep for name in found] == [0, 10, 86]
    assert [latency.LEVELS[name].power for name in found] == [0, 60, 60]


def test_unknown_level_gets_the_nearest_name():
    with pytest.raises(UsageError, match="Did you mean 'standard'"):
        latency.level_named("standart")
    with pytest.raises(UsageError, match="smoke, standard, official"):
        latency.level_named("zzz")


def test_warm_up_of_smoke_ends_after_its_time():
    machine = Machine(10 * MS)
    assert latency.warm_up(machine.infer, range(4), latency.LEVELS["smoke"], machine.clock)
    assert machine.now == 200 * MS


def test_warm_up_waits_for_a_steady_state():
    slow_start = [max(MS, 10 * MS - step * 50_000) for step in range(1000)]
    machine = Machine(iter(slow_start + [MS] * 1000))
    assert latency.warm_up(machine.infer, range(4), QUICK, machine.clock)
    assert len(machine.seen) > 180


def test_warm_up_without_steady_state_gives_up_at_the_cap():
    machine = Machine(iter(int(MS * 1.02**step) for step in range(100_000)))
    assert not latency.warm_up(machine.infer, range(4), QUICK, machine.clock)
    assert machine.now >= 2_000 * MS


def test_throughput_is_samples_by_the_wall_clock():
    machine = Machine(20 * MS)
    assert latency.throughput(machine.infer, np.zeros((8, 1, 1, 1)), 1.0, machine.clock) == pytest.approx(400)
