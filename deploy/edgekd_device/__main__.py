"""`edgekd-device`: from a bundle to a report, on the board. The same file runs inside the bundle's .pyz."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
import traceback
from typing import Any, Iterator, Mapping, Sequence

from . import __version__, bundle, files
from .errors import IN_VENV, EdgekdError, EnvironmentFault
from .records import DeviceReport, Latency, StageRow

EVERY = 30.0  # seconds between two lines of a build where there is no terminal
ERROR_FILE = "edgekd-device-error.txt"
EXIT_CODES = (
    "exit codes: 0 ok, 1 the measurement is not valid, 2 usage or bad input, 3 unsafe input refused, 4 something is missing on this machine, "
    "5 internal error, 130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A user's mistake is one line on standard error."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
        sys.stdout.flush()
        return code
    except EdgekdError as error:
        return _fail(str(error), error.exit_code)
    except ImportError as error:
        return _fail(f"{error.name} is not installed here: python3 -m pip install {error.name} {IN_VENV}", 4)
    except KeyboardInterrupt:
        return _fail("Interrupted; nothing was written.", 130)
    except BrokenPipeError:
        # the reader of our output went away: no more output, and none when Python closes it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        return _fail(_internal(traceback.format_exc()), 5)


def _fail(message: str, code: int) -> int:
    print(f"edgekd-device: {message}", file=sys.stderr)
    return code


def _internal(trace: str) -> str:
    try:
        files.write_text(ERROR_FILE, trace)
    except EdgekdError:
        return "Internal error:\n" + trace
    return f"Internal error. Please report it with {ERROR_FILE}, which was written here."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgekd-device",
        description="Measure an edgekd bundle on this machine: latency, accuracy (ACC) and attack success rate (ASR) "
        "of the very file that ships.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Any, text: str, bundled: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
        made.set_defaults(command=run)
        if bundled:
            made.add_argument("bundle", metavar="BUNDLE", help="the folder that `edgekd compress` wrote")
        return made

    def runtime(made: argparse.ArgumentParser) -> None:
        made.add_argument("--runtime", help="tensorrt, onnxruntime or null (default: what the bundle was made for)")
        made.add_argument("--threads", type=int, help="threads of the runtime (default: the target's)")

    info = command("info", _info, "Show what a bundle holds. Needs no packages.")
    info.add_argument("--json", action="store_true", help="print the manifest as JSON")
    check = command("check", _check, "Check every file of a bundle against its manifest. Needs numpy.")
    check.add_argument("--manifest-sha256", metavar="HASH", help="the manifest's hash, as `edgekd compress` printed it")
    check.add_argument(
        "--public-key", metavar="FILE", help="PEM file: the public half of the key that `edgekd sign` used"
    )
    build = command("build", _build, "Build what the bundle's runtime needs on this machine.")
    build.add_argument("--runtime", help="default: the one that the bundle was made for")
    build.add_argument("--file", action="append", metavar="NAME", help="build this model file only; may be repeated")
    run = command("run", _run, "Measure latency, ACC and ASR, and write a report; exit 1 if it is not valid.")
    run.add_argument(
        "--level", default="smoke", help="smoke: seconds; standard: minutes; official: half an hour a file, or more"
    )
    runtime(run)
    run.add_argument("--file", action="append", metavar="NAME", help="measure this model file only; may be repeated")
    run.add_argument(
        "--cuda-graph", action="store_true", help="tensorrt: launch each inference as one recorded CUDA graph"
    )
    run.add_argument("--json", action="store_true", help="print the report as JSON")
    run.add_argument("--out", metavar="FILE", help=f"where the report goes (default: BUNDLE/{bundle.REPORT})")
    predict = command("predict", _predict, "Classify a picture with the model that ships.")
    predict.add_argument("image", metavar="IMAGE", help="a PNG or JPEG picture")
    predict.add_argument("--top", type=int, default=5, metavar="N", help="how many classes (default: 5)")
    predict.add_argument("--json", action="store_true", help="print the classes as JSON")
    runtime(predict)
    text = "Print trtexec's command line for a model file, or compare its log with our report; exit 1 if they differ."
    trtexec = command("trtexec", _trtexec, text)
    trtexec.add_argument("--file", metavar="NAME", help="the model file (default: the one that ships)")
    trtexec.add_argument("--cuda-graph", action="store_true", help="as `run --cuda-graph`")
    trtexec.add_argument(
        "--tensorrt", metavar="VERSION", help="print the flags of this version (default: the one installed here)"
    )
    trtexec.add_argument("--log", metavar="FILE", help="file with what trtexec printed")
    trtexec.add_argument("--report", metavar="FILE", help=f"our report (default: BUNDLE/{bundle.REPORT})")
    doctor = command("doctor", _doctor, "Show what this machine offers and what is missing.", bundled=False)
    doctor.add_argument("--json", action="store_true", help="print it as JSON")
    return parser


def _json(value: Any) -> int:
    print(json.dumps(value, indent=1, sort_keys=True))
    return 0


def _info(arguments: argparse.Namespace) -> int:
    contents = bundle.read(arguments.bundle)
    manifest = contents.manifest
    if arguments.json:
        return _json(manifest.to_json())
    sizes = {entry.name: entry.bytes for entry in manifest.files}
    print(f"target    {manifest.target} ({manifest.runtime}, {manifest.precision}, {manifest.threads} thread(s))")
    print("input     {} x {} x {}, pixels in [0, 1]".format(*manifest.input_shape))
    print(f"classes   {manifest.num_classes}: {', '.join(manifest.class_names[:10])}")
    for name in contents.models:
        mark = "  <- ships" if name == manifest.model else ""
        print(f"model     {name}, {sizes[name] / 1e6:.3f} MB{mark}")
    for trigger in manifest.triggers:
        print(f"trigger   {trigger['name']} ({trigger['origin']})")
    for name, value in manifest.references.items():
        called = "ACC" if manifest.labelled else "agreement"
        print(f"host      {_line(StageRow.from_json({**value, 'stage': name}), called)}")
    print(f"teacher   {manifest.teacher_sha256}")
    print(f"student   {manifest.student_sha256}")
    print(f"manifest  {contents.manifest_sha256}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    contents = bundle.read(arguments.bundle, arguments.manifest_sha256)
    signed = _signed(contents, arguments.public_key)
    found = bundle.probes(contents)
    held = "the one you named" if arguments.manifest_sha256 else "not checked against any; see --manifest-sha256"
    print(f"ok: {len(contents.manifest.files)} files are whole, {len(found.images)} probe images fit")
    print(f"manifest {contents.manifest_sha256} ({held})")
    if signed:
        print(signed)
    return 0


def _signed(contents: bundle.Bundle, public_key: str | None) -> str:
    """A line on the bundle's signature; raises UnsafeInput where a key was named and it is not by it."""
    if public_key is not None:
        from . import signature  # here, because it is asked for by few

        return f"signed by the key you named, {signature.verify(contents, public_key)}"
    there = (contents.path / bundle.SIGNATURE).exists()
    return f"{bundle.SIGNATURE} is there (not checked against any key; see --public-key)" if there else ""


def _build(arguments: argparse.Namespace) -> int:
    from . import environment, session
    from .runtime import base, engines

    environment.refuse_misfit()
    contents = bundle.read(arguments.bundle)
    runtime = arguments.runtime or contents.manifest.runtime
    report = _watched()
    for name in session.chosen(contents, runtime, arguments.file):
        runner = base.make(runtime, base.Settings(name, progress=report))
        with base.about(name), contextlib.closing(runner):
            runner.prepare(contents.model(name))  # builds while nothing else takes the GPU's memory
            runner.open(contents.model(name), contents.manifest.threads)
        if runner.engine is None:
            print(f"{runner.name} {runner.version} runs {name} as it is: nothing to build")
            continue
        how = "built in {:.1f} s" if runner.engine["built_now"] else "kept from before, when it took {:.1f} s to build"
        size = "{:.3f} MB".format(runner.engine["plan_bytes"] / 1e6)
        print(
            f"{name}: {how.format(runner.engine['build_seconds'])}, {size}, {engines.folder() / runner.engine['file']}"
        )
        for note in runner.notes:
            print(f"    {note}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from . import environment, gates, harness, raw

    environment.refuse_misfit()
    out = arguments.out or os.path.join(arguments.bundle, bundle.REPORT)
    report = harness.run(
        arguments.bundle,
        level=arguments.level,
        runtime=arguments.runtime,
        files=arguments.file,
        threads=arguments.threads,
        cuda_graph=arguments.cuda_graph,
        progress=_watched(),
        times=raw.beside(out),
    )
    files.write_json(out, report.to_json(), "device-report")
    if arguments.json:
        _json(report.to_json())
    else:
        _show(report)
        print(f"report: {out}")
        if report.raw_times is not None:
            print(f"raw times: {raw.beside(out)}")
    sys.stdout.flush()  # before the reasons, which go to standard error
    gates.refuse_invalid(report)
    return 0


def _watched() -> Any:
    """What hears of the progress: all of it on a terminal; where there is none, what takes minutes."""
    return _progress if sys.stderr.isatty() else _Builds()


class _Builds:
    """A plain line on standard error when an engine begins to be built, and every 30 s from then on."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}  # seconds of the build at which the next line is said

    def __call__(self, what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        from .runtime import base

        seconds = figures.get("seconds", 0.0)
        if not what.startswith(base.BUILDING) or done == total or seconds < self._due.get(what, 0.0):
            return
        self._due[what] = seconds + EVERY
        print(what + (f": {seconds:.0f} s" if seconds else ""), file=sys.stderr, flush=True)


def _progress(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
    shown = "".join(f"  {name} {value:.3f}" for name, value in figures.items())
    print(f"\r\033[K{what}  {done}/{total}{shown}", end="", file=sys.stderr, flush=True)
    if done == total:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _show(report: DeviceReport) -> None:
    for row in report.rows:
        print(_line(row))
        for score in row.triggers:
            floor = "" if score.floor is None else f", floor {score.floor.value:.2%}"
            low, high = score.asr.interval()
            print(f"    ASR {score.asr.value:.2%} [{low:.2%}, {high:.2%}]{floor}  {score.trigger} ({score.origin})")
        if row.latency is not None:
            p99 = "n/a" if row.latency.p99_ms is None else f"{row.latency.p99_ms:.3f} ms"
            print(
                f"    p50 {row.latency.p50_ms:.3f} ms  p90 {row.latency.p90_ms:.3f} ms  p99 {p99}"
                f"  n {row.latency.count}  {row.latency.threads} thread(s)"
            )
        if row.gpu is not None:
            print(f"    GPU alone p50 {row.gpu.p50_ms:.3f} ms  p90 {row.gpu.p90_ms:.3f} ms  n {row.gpu.count}")
        for note in (*row.notes, *(row.latency.notes if row.latency else ())):
            print(f"    {note}")
    if report.throughput or report.multistream is not None:
        print(f"of {report.stage}:")
    for entry in report.throughput:
        print(f"batch {entry['batch']:.0f}: {entry['samples_per_s']:.1f} images/s")
    if report.multistream is not None:
        print(_queries(report.multistream))
    if report.power is None:
        print("energy: not measured")
    else:
        print(f"energy: {1000 * report.power['j_per_inference']:.3f} mJ per inference ({report.power['source']})")
    for gate in report.gates:
        print(f"gate: {gate.name} {gate.verdict}: {gate.found} ({gate.limit})")
    for warning in report.environment["warnings"]:
        print(f"warning: {warning}")


def _queries(found: Latency) -> str:
    bound = "n/a" if found.p99_bound_ms is None else f"{found.p99_bound_ms:.3f} ms"
    return (
        f"MultiStream({found.batch}): p99 at most {bound} (99 % confidence)  p50 {found.p50_ms:.3f} ms  n {found.count}"
    )


def _line(row: StageRow, called: str = "ACC") -> str:
    acc = "not measured" if row.acc is None else "{:.2%} [{:.2%}, {:.2%}]".format(row.acc.value, *row.acc.interval())
    flips = "" if row.flips is None else f"  label flips {row.flips.value:.2%}"
    agreement = "" if row.agreement is None else f"  as the host {row.agreement.value:.2%}"
    return f"{row.stage}  {row.precision}  {row.runtime}  {called} {acc}{flips}{agreement}"


def _predict(arguments: argparse.Namespace) -> int:
    from .predict import predict

    guesses = predict(
        arguments.bundle,
        arguments.image,
        top=arguments.top,
        runtime=arguments.runtime,
        threads=arguments.threads,
        progress=_watched(),
    )
    if arguments.json:
        return _json([guess._asdict() for guess in guesses])
    for guess in guesses:
        print(f"{guess.probability:7.2%}  {guess.name}")
    return 0


def _accelerator(missing: list[str]) -> dict[str, str | None]:
    """TensorRT, the GPU and what tells its energy, as far as they can be reached from here; ``missing`` gets why not."""
    from . import power
    from .runtime import cuda, trt_build

    found: dict[str, str | None] = {"tensorrt": None, "gpu": None, "gpu_energy": None}
    with _noted(missing):
        found["tensorrt"] = str(trt_build.library().__version__)
    with _noted(missing), contextlib.closing(cuda.start()) as gpu:
        found["gpu"] = f"{gpu.device.name}, compute capability {gpu.device.compute_capability} ({gpu.name})"
        source = power.find(gpu=gpu.device.bus)
        found["gpu_energy"] = None if source is None else f"{source.name} ({', '.join(source.rails)})"
    return found


@contextlib.contextmanager
def _noted(missing: list[str]) -> Iterator[None]:
    """What this machine lacks is said, and no end."""
    try:
        yield
    except EnvironmentFault as error:
        missing.append(str(error))


def _trtexec(arguments: argparse.Namespace) -> int:
    from . import environment, trtexec

    contents = bundle.read(arguments.bundle)
    name = arguments.file or contents.manifest.model
    ours = arguments.report or os.path.join(arguments.bundle, bundle.REPORT)
    if arguments.log is None:
        version = arguments.tensorrt or environment.version_of("tensorrt")
        if version is None:
            raise EnvironmentFault(
                "TensorRT is not installed here. Name the version whose flags you want, e.g. --tensorrt 10.3.0."
            )
        model, shape = os.path.join(arguments.bundle, name), contents.manifest.input_shape
        memory = trtexec.workspace(ours, name)
        print(shlex.join(trtexec.command(model, version, shape, cuda_graph=arguments.cuda_graph, workspace=memory)))
        return 0
    report = DeviceReport.from_json(files.read_json(ours))
    (time, engine), log = trtexec.timed(report, name), trtexec.read(arguments.log)
    trtexec.refuse_unlike(engine, log)
    found = trtexec.beside(time, log)
    for statistic, pair in found["ms"].items():
        here, there = ("n/a" if value is None else f"{value:.4f} ms" for value in pair.values())
        print(f"GPU {statistic}  ours {here}  trtexec {there}")
    print("difference of the medians {difference_ms:+.4f} ms, allowed {allowed_ms:.4f} ms".format(**found))
    for warning in found["warnings"]:
        print(f"trtexec: {warning}")
    return 0 if found["agrees"] else 1


def _doctor(arguments: argparse.Namespace) -> int:
    from . import environment, power

    found = environment.collect()
    source = power.find()
    found["energy"] = None if source is None else f"{source.name} ({', '.join(source.rails)})"
    missing: list[str] = []
    said = {**found, **_accelerator(missing)}
    needed = {"onnxruntime": ("onnxruntime",), "tensorrt": ("tensorrt", "gpu")}
    runs = {name: all(said[part] is not None for part in ("numpy", *parts)) for name, parts in needed.items()}
    warnings = list(environment.faults(found))
    if arguments.json:
        _json({**said, "runs": runs, "missing": missing, "warnings": warnings})
    else:
        for name, value in said.items():
            print(f"{name:20} {'not available' if value is None else value}")
        for name, can in runs.items():
            print(f"bundles for {name + ':':12} {'can run here' if can else 'cannot run here'}")
        for kind, lines in (("missing", missing), ("warning", warnings)):
            for line in lines:
                print(f"{kind}: {line}")
    environment.refuse_misfit()
    if said["l4t"] is not None and not runs["tensorrt"]:
        raise EnvironmentFault(
            "A bundle for a Jetson cannot run here yet: sudo apt install python3-numpy, and nvidia-jetpack or tensorrt and "
            "python3-libnvinfer alone."
        )
    if not any(runs.values()):
        raise EnvironmentFault(f"A bundle cannot run here yet: python3 -m pip install numpy onnxruntime {IN_VENV}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
