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
from dataclasses import dataclass, field
from typing import Any, ContextManager, Sequence

import numpy as np

from . import __version__, bundle, environment, gates, gpu, latency, metrics, nvml, pinning, power, raw, thermal
from .errors import UsageError
from .files import PathLike
from .latency import Clock, Level
from .records import BundleManifest, DeviceReport, Gate, Latency, StageRow, TriggerScore
from .runtime import base

Progress = base.Progress

BATCH = 100
INPUT_BYTES = 64 << 20
REFERENCE = "model.onnx"  # label flips are counted against it
HALF = "model.fp16.onnx"  # is always measured beside INT8 on a GPU
# Model file -> precision and the runtime that it is made for (None: any). A latency is quoted from no other.
FLAVOURS: dict[str, tuple[str, str | None]] = {
    "model.onnx": ("fp32", None),
    "model.fp16.onnx": ("fp16", None),
    "model.qdq.onnx": ("int8", "tensorrt"),
    "model.qdq.fp16.onnx": ("int8", "tensorrt"),
    "model.u8s8.onnx": ("int8", "onnxruntime"),
}
# Further from the host's figures than this, and than one image, is not the same model (card 11.3).
ACC_TOLERANCE = 0.005
ASR_TOLERANCE = 0.01
FASTER = 0.98  # a smaller difference is noise (card 3.4)
NOT_FINITE = "logits are not finite"


@dataclass
class _Session:
    """One open model file and what was found out about it so far."""

    row: StageRow
    runner: base.Runner
    timed: bool
    predictions: np.ndarray | None = None
    blocks: list[np.ndarray] = field(default_factory=list)
    gpu_blocks: list[np.ndarray] = field(default_factory=list)  # ns, of the GPU alone
    queries: np.ndarray | None = None  # ns, of MultiStream
    steady: bool = True
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)  # of its engine


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
        sessions = [_opened(contents, name, runners[name], threads, probes, cold, clock) for name in names]
        if runtime != "null":
            for session in sessions:
                _judge(session, sessions[0], manifest, probes, report)
        shipped = _shipped(sessions, manifest)
        found = _scenarios(sessions, shipped, probes, around, plan, threads, clock, root, report)
    for session in sessions:
        _finish(session, plan, threads)
    if shipped is not None:
        _remark(shipped, sessions, found["power"])
    doubts = environment.faults(around)
    around["warnings"] = [why for why, kind in doubts.items() if kind == "warning"]
    wrong = [f"{s.row.stage}: {why}" for s in sessions for why in s.wrong]
    wrong += [why for why, kind in doubts.items() if kind == "invalid"]
    wrong += [f"{gate.name}: {gate.found}" for gate in found["gates"] if gate.verdict == "failed"]
    # those of engines come after: what they found is held against their own file, not against the machine
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


def chosen(contents: bundle.Bundle, runtime: str, files: Sequence[str] | None) -> tuple[str, ...]:
    """The model files to measure, the reference first, so that flips can be counted against it.

    On a GPU FP16 is measured beside INT8, asked for or not: which of the two is faster nobody knows before.
    """
    shipped = contents.manifest.model
    unknown = [name for name in files or () if name not in contents.models]
    if unknown:
        raise UsageError("The bundle holds no model {!r}; it holds: {}.".format(unknown[0], ", ".join(contents.models)))
    if runtime == "null":
        return (shipped,)
    suited = [name for name in contents.models if name == shipped or _made_for(name) in (None, runtime)]
    names = set(files or suited)
    if (
        runtime == "tensorrt"
        and HALF in contents.models
        and any(_precision(n, contents.manifest) == "int8" for n in names)
    ):
        names.add(HALF)
    return tuple(sorted(names, key=lambda name: (name != REFERENCE, name)))


def _shipped(sessions: Sequence[_Session], manifest: BundleManifest) -> _Session | None:
    """The file that ships, where its latency may be quoted; else the one made for this version of the runtime instead."""
    own = next((s for s in sessions if s.row.stage == manifest.model), None)
    if own is None or own.timed:
        return own
    stands = own.row.stage in own.runner.foreign
    return next((s for s in sessions if stands and s.timed and s.row.precision == own.row.precision), None)


def standing(contents: bundle.Bundle, runner: base.Runner) -> str:
    """The file that ships, or the one of its precision that stands for it where this version runs it as another."""
    manifest = contents.manifest
    own = (_precision(manifest.model, manifest), _made_for(manifest.model))
    alike = [name for name in contents.models if (_precision(name, manifest), _made_for(name)) == own]
    suited = [name for name in alike if name not in runner.foreign]
    return manifest.model if manifest.model not in runner.foreign or not suited else suited[0]


def _precision(name: str, manifest: BundleManifest) -> str:
    return FLAVOURS[name][0] if name in FLAVOURS else manifest.precision


def _made_for(name: str) -> str | None:
    return FLAVOURS[name][1] if name in FLAVOURS else None


def _opened(
    contents: bundle.Bundle,
    name: str,
    runner: base.Runner,
    threads: int,
    probes: bundle.Probes,
    cold: dict[str, float],
    clock: Clock,
) -> _Session:
    """A session on the bytes of one model file; ``cold`` gets its start-up times in milliseconds."""
    data, manifest = contents.model(name), contents.manifest
    with base.about(name):
        started = clock()
        runner.open(data, threads)
        opened = clock()
        logits = runner.infer(as_float(probes.images[:1]))
        answered = clock()
    cold[name + " open"], cold[name + " first inference"] = (opened - started) / 1e6, (answered - opened) / 1e6
    idle = runner.name == "null"
    if not idle and logits.shape != (1, manifest.num_classes):
        raise UsageError(
            f"{name} answers one image with the shape {logits.shape}, not (1, {manifest.num_classes}). "
            "Export the bundle again."
        )
    row = StageRow(
        stage=name,
        kind="stage",
        runtime=runner.name,
        precision=_precision(name, manifest),
        sha256=next(entry.sha256 for entry in manifest.files if entry.name == name),
        size_bytes=len(data),
    )
    suited = _made_for(name) in (None, runner.name) and name not in runner.foreign
    session = _Session(row, runner, idle or suited)
    if idle:
        session.notes.append("nothing was computed: this is the time of the harness itself")
    if not session.timed:
        other = f", but not for {runner.name} {runner.version}" if name in runner.foreign else ""
        session.notes.append(f"latency not quoted: this file is made for {_made_for(name)}{other}")
    return session


def as_float(images: np.ndarray) -> np.ndarray:
    """uint8 [N, C, H, W] as the model's input, float32 in [0, 1]."""
    found: np.ndarray = images.astype(np.float32) / np.float32(255)  # as torch divides, to the bit
    return found


def _predict(session: _Session, images: np.ndarray, what: str, report: Progress) -> np.ndarray:
    """Labels int64 [N]; a logit that is not finite makes the session's figures invalid."""
    found = np.empty(len(images), np.int64)
    for start in range(0, len(images), BATCH):
        logits = session.runner.infer(as_float(images[start : start + BATCH]))
        if not np.isfinite(logits).all() and NOT_FINITE not in session.wrong:
            session.wrong.append(NOT_FINITE)
        found[start : start + BATCH] = logits.argmax(1)
        report(f"{session.row.stage} {what}", min(start + BATCH, len(images)), len(images), {})
    return found


def _judge(
    session: _Session, first: _Session, manifest: BundleManifest, probes: bundle.Probes, report: Progress
) -> None:
    """ACC, ASR per trigger and label flips, held against what the host found for the same file."""
    clean = session.predictions = _predict(session, probes.images, "ACC", report)
    scores = []
    for t in probes.triggered:
        triggered = _predict(session, t.images, "ASR " + t.name, report)
        labels = probes.labels[t.positions]
        scores.append(
            TriggerScore(
                t.name,
                t.origin,
                asr=metrics.attack_success(triggered, labels, t.attacker_labels),
                ra=metrics.robust_accuracy(triggered, labels, t.attacker_labels),
                untriggered=metrics.attack_success(clean[t.positions], labels, t.attacker_labels),
                floor=metrics.Rate.from_json(manifest.floors.get(t.name)),
            )
        )
    flips = None
    if first is not session and first.row.stage == REFERENCE and first.predictions is not None:
        flips = metrics.Rate(int((clean != first.predictions).sum()), len(clean))
    found = metrics.accuracy(clean, probes.labels)
    acc = found if manifest.labelled else None
    if acc is None:
        session.notes.append(f"gives the teacher's answer on {found.hits} of {found.total} images; ACC is not measured")
    session.row = dataclasses.replace(session.row, acc=acc, triggers=tuple(scores), flips=flips)
    if session.row.stage in manifest.references:
        host = StageRow.from_json(manifest.references[session.row.stage])
        _compare(session, host, found, "ACC" if manifest.labelled else "agreement")


def _compare(session: _Session, host: StageRow, found: metrics.Rate, called: str) -> None:
    """Note how far ACC (agreement without labels) and ASR are from the host's on the same file; too far is not the same model."""
    theirs = {score.trigger: score.asr for score in host.triggers}
    pairs = [(called, found, host.acc, ACC_TOLERANCE)]
    pairs += [("ASR " + s.trigger, s.asr, theirs.get(s.trigger), ASR_TOLERANCE) for s in session.row.triggers]
    different: list[str] = []
    unlike: list[str] = []
    equal = 0
    for what, here, there, tolerance in pairs:
        if here is None or there is None:
            continue
        if here.total != there.total:
            unlike.append(f"{what} ({here.total} images here, {there.total} there)")
            continue
        if here.hits == there.hits:
            equal += 1
            continue
        words = f"{what} is {here.value:.2%}, the host found {there.value:.2%}"
        different.append(words)
        # An ASR that falls is no alarm; one that rises is the mark of a backdoor that waits for quantisation.
        apart = here.hits - there.hits
        if (apart if what.startswith("ASR") else abs(apart)) > max(1.0, tolerance * here.total):
            session.wrong.append(words)
    if equal and not different:
        every = "ACC and ASR" if called == "ACC" else "all figures"
        session.notes.append(("the other figures" if unlike else every) + " equal the host's")
    session.notes += different
    if unlike:
        more = f" and {len(unlike) - 3} more" if len(unlike) > 3 else ""
        session.notes.append("not held against the host's, which counted other images: " + ", ".join(unlike[:3]) + more)


def _inputs(probes: bundle.Probes, plan: Level) -> list[np.ndarray]:
    """Different real images, one by one, ready in memory: what the timed loop cycles through."""
    count = min(plan.inputs, len(probes.images), max(1, INPUT_BYTES // (4 * probes.images[0].size)))
    return [as_float(probes.images[k : k + 1]) for k in range(count)]


def _scenarios(
    sessions: Sequence[_Session],
    shipped: _Session | None,
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
        found = {
            "multistream": _multistream(shipped, inputs, plan, threads, clock, report, watch),
            "throughput": _throughput(shipped, probes, plan, clock, report),
            "gates": () if watch is None else (*watch.gates(soak, around), *_gpu_gates(timed)),
            "thermal": None if watch is None else watch.thermal(soak),
        }
    if core is not None:
        around["pinning"] = core
    return {**found, "power": _energy(shipped, inputs, plan, threads, clock, root, report)}


def _pinned(plan: Level, threads: int, root: str) -> ContextManager[str | None]:
    """The performance core for the timed thread, at the levels whose figures may be published."""
    return pinning.pinned(threads, root) if plan.publishable else contextlib.nullcontext()


def _soak(
    session: _Session | None, inputs: Sequence[Any], plan: Level, clock: Clock, root: str, report: Progress
) -> dict[str, Any] | None:
    """Let the machine get as warm as it will be; None where the level asks for none or no zone can be read."""
    if session is None or not plan.soak:
        return None
    infer, endless = session.runner.infer, itertools.cycle(inputs)
    return thermal.soak(lambda: infer(next(endless)), plan.soak, clock, root, report)


def _gpu_gates(sessions: Sequence[_Session]) -> tuple[Gate, ...]:
    return tuple(gpu.gate(s.row.stage, s.gpu_blocks) for s in sessions if s.gpu_blocks)


def _watched(watch: gates.Watch | None, what: str) -> ContextManager[None]:
    return contextlib.nullcontext() if watch is None else watch.block(what)


def _time(
    sessions: Sequence[_Session],
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
            with _watched(watch, f"{session.row.stage} block {block + 1}"):
                times = latency.timed_block(session.runner.infer, inputs, plan.seconds, samples, clock)
            session.blocks.append(times)
            alone = session.runner.gpu_block(inputs, gpu.SHARE * plan.seconds, 1, clock)
            if alone is not None:
                session.gpu_blocks.append(alone)
            done += 1
            report(what, done, total, {"p50_ms": float(np.median(times)) / 1e6})


def _multistream(
    session: _Session | None,
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
    with _watched(watch, what):
        # enough of them that the bound of the 99th percentile can be given
        session.queries = latency.timed_block(infer, queries, plan.multistream, latency.min_queries(1, 0.99), clock)
    found = latency.summarise([session.queries], plan, threads, steady, size)
    if not found.valid:
        session.wrong.append("MultiStream: " + found.notes[0])
    report(what, 1, 1, {"p50_ms": found.p50_ms})
    return found


def _throughput(
    session: _Session | None, probes: bundle.Probes, plan: Level, clock: Clock, report: Progress
) -> tuple[dict[str, float], ...]:
    """Samples per second of the file that ships, per batch size; nothing where the level asks for none."""
    rates: list[dict[str, float]] = []
    if session is None or not plan.sweep:
        return ()
    for batch in plan.batches:
        report(f"{session.row.stage} batch {batch}", len(rates), len(plan.batches), {})
        images = as_float(np.resize(probes.images, (batch, *probes.images.shape[1:])))
        speed = session.runner.throughput(images, plan.sweep, clock)
        if speed is None:
            speed = latency.throughput(session.runner.infer, images, plan.sweep, clock)
        rates.append({"batch": float(batch), "samples_per_s": speed})
    if session.runner.engine is not None:
        session.notes.append("throughput: one engine for batches 1 to {max_batch}".format(**session.runner.engine))
    return tuple(rates)


def _energy(
    session: _Session | None,
    inputs: Sequence[Any],
    plan: Level,
    threads: int,
    clock: Clock,
    root: str,
    report: Progress,
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
        # pinned in here only, so that the sampling thread, which runs by now, is not on the same core
        with _pinned(plan, threads, root):
            return len(latency.timed_block(infer, inputs, plan.power, 1, clock))

    return power.measure(source, work, idle_seconds=plan.power)


def _raw(sessions: Sequence[_Session]) -> dict[str, np.ndarray]:
    """Nanoseconds [n] of every timed stretch, by its name."""
    found = {f"{s.row.stage} block {k}": times for s in sessions for k, times in enumerate(s.blocks, 1)}
    found.update({f"{s.row.stage} GPU block {k}": times for s in sessions for k, times in enumerate(s.gpu_blocks, 1)})
    found.update({s.row.stage + " MultiStream": s.queries for s in sessions if s.queries is not None})
    return found


def _finish(session: _Session, plan: Level, threads: int) -> None:
    """Put the times into the row, and what was built of the file."""
    engine = session.runner.engine
    if engine is not None:
        if session.row.precision == "int8":
            session.gates.append(gpu.int8_gate(session.row.stage, engine))
            session.wrong += [gate.found for gate in session.gates if gate.verdict == "failed"]
        alone = gpu.summary(session.gpu_blocks, plan, threads)
        if alone is not None:
            session.wrong += [] if alone.valid else ["GPU alone: " + alone.notes[0]]
            session.notes += [note for note in (gpu.launching(engine, alone),) if note]
        session.row = dataclasses.replace(session.row, engine=dict(engine), gpu=alone, seconds=engine["build_seconds"])
    session.notes[:0] = session.runner.notes
    if session.blocks:
        found = latency.summarise(session.blocks, plan, threads, session.steady)
        session.row = dataclasses.replace(session.row, latency=found)
        if not found.valid:
            session.wrong.append(found.notes[0])


def _remark(shipped: _Session, sessions: Sequence[_Session], energy: dict[str, Any] | None) -> None:
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
