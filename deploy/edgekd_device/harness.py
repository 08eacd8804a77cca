"""Latency, ACC and ASR of a bundle's model files, from one session per file, on the same bytes.

All figures of one row come from one open session. Blocks of different files are interleaved (A B, B A, ...) in one
process, where the card asks for a fresh one per block: a second process would time another session than was audited.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from typing import Any, ContextManager, Sequence

import numpy as np

from . import __version__, bundle, environment, gates, gpu, latency, nvml, pinning, power, raw, thermal
from .answers import judge
from .files import PathLike
from .latency import Clock, Level
from .records import BundleManifest, DeviceReport, Gate, Latency
from .runtime import base
from .runtime.base import Progress
from .session import Session, as_float, chosen, opened

INPUT_BYTES = 64 << 20
WARMING = 0.1  # of the throughput's own seconds, before them: another batch size has other kernels and other heat
FASTER = 0.98  # a smaller difference is noise (card 3.4)


def run(
    path: PathLike,
    *,
    level: str = "smoke",
    runtime: str | None = None,
    files: Sequence[str] | None = None,
    threads: int | None = None,
    cuda_graph: bool = False,
    progress: Progress | None = None,
    times: PathLike | None = None,
    clock: Clock = time.perf_counter_ns,
    root: str = "/",
) -> DeviceReport:
    """Measure the bundle in the folder ``path``.

    runtime, threads: the target's own by default. files: by default the one that ships and all made for this runtime.
    cuda_graph: on a GPU an inference is launched as one recorded graph.
    times: where the raw times of a level fit to be published go. Raises UsageError or UnsafeInput for a bad bundle,
    EnvironmentFault where the runtime is absent or the raw times cannot be written.
    """
    plan, contents = latency.level_named(level), bundle.read(path)
    manifest = contents.manifest
    runtime = manifest.runtime if runtime is None else runtime
    threads = manifest.threads if threads is None else threads
    report = progress or base.silent
    names, probes, around = chosen(contents, runtime, files), bundle.probes(contents), environment.collect(root)
    cold: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        runners = {name: base.make(runtime, base.Settings(name, cuda_graph, report, root)) for name in names}
        for name, runner in runners.items():  # before any is open: building takes memory of its own
            stack.callback(runner.close)
            with base.about(name):
                runner.prepare(contents.model(name))
        sessions = [opened(contents, name, runners[name], threads, probes, cold, clock) for name in names]
        if runtime != "null":
            for session in sessions:
                judge(session, sessions[0], manifest, probes, report)
        shipped = _shipped(sessions, manifest)
        found = _scenarios(sessions, shipped, probes, around, plan, threads, clock, root, report)
    for session in sessions:
        _finish(session, plan, threads)
    if shipped is not None:
        _remark(shipped, sessions, found["power"])
    doubts = environment.faults(around, on_gpu=any(s.runner.engine is not None for s in sessions))
    around["warnings"] = [why for why, kind in doubts.items() if kind == "warning"]
    wrong = [f"{s.row.stage}: {why}" for s in sessions for why in s.wrong]
    wrong += [why for why, kind in doubts.items() if kind == "invalid"]
    wrong += [f"{gate.name}: {gate.found}" for gate in found["gates"] if gate.verdict == "failed"]
    # those of files come after: what they found is held against their own file, not against the machine
    found["gates"] += tuple(gate for s in sessions for gate in s.gates)
    found["gates"] += gpu.half_gate([s.row.precision for s in sessions if s.runner.engine is not None])
    return DeviceReport(
        manifest_sha256=contents.manifest_sha256,
        level=plan.name,
        valid=not wrong,
        invalid_reasons=tuple(wrong),
        rows=tuple(dataclasses.replace(s.row, notes=tuple(s.notes)) for s in sessions),
        environment=around,
        cold_start_ms=cold,
        edgekd_version=__version__,
        stage=None if shipped is None else shipped.row.stage,
        **found,
        raw_times=raw.write(times, _raw(sessions)) if plan.publishable and times is not None else None,
    )


def _shipped(sessions: Sequence[Session], manifest: BundleManifest) -> Session | None:
    """The file that ships, where its latency may be quoted; else the one made for this version of the runtime instead."""
    own = next((s for s in sessions if s.row.stage == manifest.model), None)
    if own is None or own.timed:
        return own
    stands = own.row.stage in own.runner.foreign
    return next((s for s in sessions if stands and s.timed and s.row.precision == own.row.precision), None)


def _inputs(probes: bundle.Probes, plan: Level) -> list[np.ndarray]:
    """Different real images, one by one, ready in memory: what the timed loop cycles through."""
    count = min(plan.inputs, len(probes.images), max(1, INPUT_BYTES // (4 * probes.images[0].size)))
    return [as_float(probes.images[k : k + 1]) for k in range(count)]


def _scenarios(
    sessions: Sequence[Session],
    shipped: Session | None,
    probes: bundle.Probes,
    around: dict[str, Any],
    plan: Level,
    threads: int,
    clock: Clock,
    root: str,
    report: Progress,
) -> dict[str, Any]:
    """Everything that is timed, in order; the fields of the report that come of it. ``around`` gets the pinning."""
    inputs, timed = _inputs(probes, plan), [s for s in sessions if s.timed]
    with _pinned(plan, threads, root) as core:
        soak = _soak(shipped or next(iter(timed), None), inputs, plan, clock, root, report)
        watched = plan.publishable and timed
        watch = gates.Watch(root, nvml.watched(timed[0].runner.engine, around)) if watched else None
        _time(timed, inputs, plan, clock, report, watch)
        found: dict[str, Any] = {
            "multistream": _multistream(shipped, inputs, plan, threads, clock, report, watch),
            "throughput": _throughput(shipped, probes, plan, clock, report, watch),
        }
    if core is not None:
        around["pinning"] = core
    found["power"] = _energy(shipped, inputs, plan, threads, clock, root, report, watch)
    if watch is None:
        return {**found, "gates": (), "thermal": None}
    return {**found, "gates": (*watch.gates(soak, around), *_gpu_gates(timed)), "thermal": watch.thermal(soak)}


def _pinned(plan: Level, threads: int, root: str) -> ContextManager[str | None]:
    """The performance core for the timed thread, at the levels whose figures may be published."""
    return pinning.pinned(threads, root) if plan.publishable else contextlib.nullcontext()


def _soak(
    session: Session | None, inputs: Sequence[Any], plan: Level, clock: Clock, root: str, report: Progress
) -> dict[str, Any] | None:
    """Let the machine get as warm as it will be; None where the level asks for none or no zone can be read."""
    if session is None or not plan.soak:
        return None
    infer, endless = session.runner.infer, itertools.cycle(inputs)
    return thermal.soak(lambda: infer(next(endless)), plan.soak, clock, root, report)


def _gpu_gates(sessions: Sequence[Session]) -> tuple[Gate, ...]:
    return tuple(gpu.gate(s.row.stage, s.gpu_blocks) for s in sessions if s.gpu_blocks)


def _watched(watch: gates.Watch | None, what: str, session: Session) -> ContextManager[None]:
    return contextlib.nullcontext() if watch is None else watch.block(what, session.runner.engine is not None)


def _time(
    sessions: Sequence[Session],
    inputs: Sequence[Any],
    plan: Level,
    clock: Clock,
    report: Progress,
    watch: gates.Watch | None,
) -> None:
    """Blocks of all files, interleaved, so that a drift of the machine meets them alike."""
    done, total = 0, plan.blocks * len(sessions)
    samples = math.ceil(plan.samples / plan.blocks)
    for block in range(plan.blocks):
        for session in sessions if block % 2 == 0 else reversed(sessions):
            what = session.row.stage + " latency"
            report(what, done, total, {})
            session.steady &= latency.warm_up(session.runner.infer, inputs, plan, clock)
            with _watched(watch, f"{session.row.stage} block {block + 1}", session):
                times = latency.timed_block(session.runner.infer, inputs, plan.seconds, samples, clock)
            session.blocks.append(times)
            with contextlib.nullcontext() if watch is None or session.runner.engine is None else watch.working():
                alone = session.runner.gpu_block(inputs, gpu.SHARE * plan.seconds, 1, clock)
            if alone is not None:
                session.gpu_blocks.append(alone)
            done += 1
            report(what, done, total, {"p50_ms": float(np.median(times)) / 1e6})


def _multistream(
    session: Session | None,
    inputs: Sequence[Any],
    plan: Level,
    threads: int,
    clock: Clock,
    report: Progress,
    watch: gates.Watch | None,
) -> Latency | None:
    """Queries of several images of the file that ships, the next when one is complete; None where not asked for."""
    if session is None or not plan.multistream:
        return None
    what, size, infer = session.row.stage + " MultiStream", latency.MULTISTREAM, session.runner.infer
    report(what, 0, 1, {})
    count = -(-len(inputs) // size)
    queries = [np.concatenate([inputs[(size * k + j) % len(inputs)] for j in range(size)]) for k in range(count)]
    steady = latency.warm_up(infer, queries, plan, clock)
    with _watched(watch, what, session):
        # enough of them that the bound of the 99th percentile can be given
        session.queries = latency.timed_block(infer, queries, plan.multistream, latency.min_queries(1, 0.99), clock)
    found = latency.summarise([session.queries], plan, threads, steady, size)
    session.wrong += ["MultiStream: " + why for why in latency.faults([session.queries], plan, steady)]
    report(what, 1, 1, {"p50_ms": found.p50_ms})
    return found


def _throughput(
    session: Session | None,
    probes: bundle.Probes,
    plan: Level,
    clock: Clock,
    report: Progress,
    watch: gates.Watch | None,
) -> tuple[dict[str, float], ...]:
    """Samples per second of the file that ships, per batch size; nothing where the level asks for none."""
    rates: list[dict[str, float]] = []
    if session is None or not plan.sweep:
        return ()
    for batch in plan.batches:
        what = f"{session.row.stage} batch {batch}"
        report(what, len(rates), len(plan.batches), {})
        images = as_float(np.resize(probes.images, (batch, *probes.images.shape[1:])))
        _rate(session.runner, images, plan.sweep * WARMING, clock)
        with _watched(watch, what, session):
            speed = _rate(session.runner, images, plan.sweep, clock)
        rates.append({"batch": float(batch), "samples_per_s": speed})
    if session.runner.engine is not None:
        session.notes.append(
            "throughput: one engine for batches 1 to {max_batch}, copies not overlapped".format(**session.runner.engine)
        )
    return tuple(rates)


def _rate(runner: base.Runner, images: np.ndarray, seconds: float, clock: Clock) -> float:
    """Samples per second, two batches in flight where the runner can."""
    speed = runner.throughput(images, seconds, clock)
    return latency.throughput(runner.infer, images, seconds, clock) if speed is None else speed


def _energy(
    session: Session | None,
    inputs: Sequence[Any],
    plan: Level,
    threads: int,
    clock: Clock,
    root: str,
    report: Progress,
    watch: gates.Watch | None,
) -> dict[str, Any] | None:
    """Energy of the file that ships, apart from the timed blocks, which a sampling thread would disturb."""
    if session is None or not plan.power:
        return None
    # what a processor's counters say is not what a GPU beside it takes
    source = power.find(root, nvml.bus(session.runner.engine))
    if source is None:
        return None
    infer = session.runner.infer
    report("energy", 0, 1, {})

    def work() -> int:
        # pinned in here only, so that the sampling threads, which run by now, are not on the same core
        with _watched(watch, "energy", session), _pinned(plan, threads, root):
            return len(latency.timed_block(infer, inputs, plan.power, 1, clock))

    # out of its idle clocks, which are none of the measurement's
    return power.measure(source, work, plan.power, lambda: latency.warm_up(infer, inputs, plan, clock))


def _raw(sessions: Sequence[Session]) -> dict[str, np.ndarray]:
    """Nanoseconds [n] of every timed stretch, by its name."""
    found = {f"{s.row.stage} block {k}": times for s in sessions for k, times in enumerate(s.blocks, 1)}
    found.update({f"{s.row.stage} GPU block {k}": times for s in sessions for k, times in enumerate(s.gpu_blocks, 1)})
    found.update({s.row.stage + " MultiStream": s.queries for s in sessions if s.queries is not None})
    return found


def _finish(session: Session, plan: Level, threads: int) -> None:
    """Put the times into the row, and what was built of the file."""
    engine = session.runner.engine
    if engine is not None:
        if session.row.precision == "int8":
            session.gates.append(gpu.int8_gate(session.row.stage, engine))
        alone = gpu.summary(session.gpu_blocks, plan, threads)
        if alone is not None:
            session.wrong += ["GPU alone: " + why for why in latency.faults(session.gpu_blocks, plan)]
            session.notes += [note for note in (gpu.launching(engine, alone),) if note]
        session.row = dataclasses.replace(session.row, engine=dict(engine), gpu=alone, seconds=engine["build_seconds"])
    session.wrong += [gate.found for gate in session.gates if gate.verdict == "failed"]
    session.notes[:0] = session.runner.notes
    if session.blocks:
        found = latency.summarise(session.blocks, plan, threads, session.steady)
        session.row = dataclasses.replace(session.row, latency=found)
        session.wrong += latency.faults(session.blocks, plan, session.steady)


def _remark(shipped: Session, sessions: Sequence[Session], energy: dict[str, Any] | None) -> None:
    """Energy of the file that ships, and whether another file of the same bundle is faster than it."""
    if energy is not None:
        shipped.row = dataclasses.replace(shipped.row, energy_mj=1000 * energy["j_per_inference"])
    for session in sessions:
        ours, theirs = shipped.row.latency, session.row.latency
        if ours is not None and theirs is not None and theirs.p50_ms < FASTER * ours.p50_ms:
            shipped.notes.append(
                f"{session.row.stage} ({session.row.precision}) is faster here: "
                f"{theirs.p50_ms:.4g} ms against {ours.p50_ms:.4g} ms"
            )
