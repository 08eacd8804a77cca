"""NVIDIA's trtexec beside our own figures: its command line for equal conditions, and what its summary says.

What it waits for, how it launches and whether it counts copies changed with TensorRT 11, so nothing is left to defaults
(card 2.1). Its latency comes from events on the GPU; held against ours is its GPU Compute Time.
"""

from __future__ import annotations

import os
import re
from typing import Any, Mapping, NamedTuple, Sequence

from . import files
from .errors import UsageError
from .files import PathLike
from .records import DeviceReport
from .runtime.trt_build import MAX_BATCH, WORKSPACES

PLACE = "/usr/src/tensorrt/bin/trtexec"  # of JetPack; the package index's TensorRT has none
STRONG_ONLY = 11  # the first version whose networks are all strongly typed, and whose defaults are others
# Float32-typed: before 11 `run` builds them weakly typed, so that the builder chooses among these (trt_build.recipe)
WEAK = {"model.onnx": (), "model.qdq.onnx": ("--int8", "--fp16")}
SHARE, MICROSECONDS = 0.05, 20.0
LIMIT = 16 << 20
SUMMARY = "=== Performance summary ==="
_TIMES = re.compile(r"(H2D Latency|D2H Latency|GPU Compute Time|Enqueue Time|Latency): (min = [^\n]*)")
_VALUE = re.compile(r"(min|max|mean|median|percentile\((\d+(?:\.\d+)?)%\)) = ([\d.]+) ms")
_RATE = re.compile(r"Throughput: ([\d.]+) qps")
_TOTAL = re.compile(r"Total (Host Walltime|GPU Compute Time): ([\d.]+) s")
_RELEASE = re.compile(r"\[TensorRT v(\d+)\]")
_RUNNING = re.compile(r"RUNNING TensorRT\.trtexec \[TensorRT v(\d+)\]([^\n]*)")
_WARNING = re.compile(r"\[W\] (.+)")


class Summary(NamedTuple):
    """One run of trtexec: milliseconds by part and statistic, e.g. times["GPU Compute Time"]["median"]."""

    tensorrt: str | None
    throughput: float
    times: Mapping[str, Mapping[str, float]]
    seconds: Mapping[str, float]
    warnings: Sequence[str]
    cuda_graph: bool | None = None  # None where the log does not hold the command line


def command(
    model: str, version: str, shape: Sequence[int], *, cuda_graph: bool = False, workspace: int = WORKSPACES[0]
) -> list[str]:
    """trtexec's command line for an ONNX file at batch 1, built and timed as `run` does it; shape: (C, H, W).

    workspace: bytes, those of the engine that it is held against.

    Raises UsageError where the version is none we know, or cannot build the file as it is meant.
    """
    major = _major(version)
    name = model.replace("\\", "/").rsplit("/", 1)[-1]
    if major >= STRONG_ONLY and WEAK.get(name):
        raise UsageError(
            f"TensorRT {version} runs all of {name} but its integers in float32. Give model.qdq.fp16.onnx."
        )
    size = "x".join(map(str, shape))
    flags = [f"--{end}Shapes=input:{batch}x{size}" for end, batch in (("min", 1), ("opt", 1), ("max", MAX_BATCH))]
    flags += ["--noTF32", f"--memPoolSize=workspace:{workspace >> 20}"]
    flags += ["--infStreams=1", "--warmUp=2000", "--duration=60", "--iterations=1000", "--percentile=50,90,95,99"]
    if major >= STRONG_ONLY:
        flags += [] if cuda_graph else ["--noCudaGraph"]
    else:
        flags += ["--useSpinWait", "--noDataTransfers", *(["--useCudaGraph"] if cuda_graph else [])]
        flags += WEAK.get(name, ("--stronglyTyped",))
    return [PLACE, f"--onnx={model}", f"--shapes=input:1x{size}", *flags]


def _major(version: str) -> int:
    found = re.match(r"(\d+)\.\d+", version)
    if found is None or int(found.group(1)) < 10:
        raise UsageError(f"edgekd does not run on TensorRT {version!r}. Name 10.3 or newer.")
    return int(found.group(1))


def read(path: PathLike) -> Summary:
    """``parse`` of a file, of which the last 16 MB count; raises UsageError naming the file."""
    try:
        with open(str(path), "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - LIMIT))
            return parse(stream.read(LIMIT).decode("utf-8", "replace"))
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error


def parse(log: str) -> Summary:
    """The last performance summary of a log; raises UsageError where there is none, as trtexec then ended early."""
    head, found, tail = log.rpartition(SUMMARY)
    rate = _RATE.search(tail)
    times = {name: _statistics(values) for name, values in _TIMES.findall(tail)}
    if not found or rate is None or "median" not in times.get("GPU Compute Time", {}):
        raise UsageError(
            "The log holds no performance summary of trtexec, which ended too early. Run it again and keep the "
            "whole log."
        )
    release = next(reversed(list(_RELEASE.finditer(head))), None)
    return Summary(
        tensorrt=None if release is None else _dotted(release.group(1)),
        throughput=float(rate.group(1)),
        times=times,
        seconds={name: float(value) for name, value in _TOTAL.findall(tail)},
        warnings=tuple(dict.fromkeys(map(_plain, _WARNING.findall(head + tail)))),
        cuda_graph=_launched(head),
    )


def _launched(head: str) -> bool | None:
    """Whether the run whose log this is launched CUDA graphs; None where its command line is not there."""
    found = _RUNNING.findall(head)
    if not found:
        return None
    release, words = found[-1][0], found[-1][1].split()
    strong = int(_dotted(release).split(".")[0]) >= STRONG_ONLY
    return "--noCudaGraph" not in words if strong else "--useCudaGraph" in words


def _plain(line: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in line.strip())


def _statistics(values: str) -> dict[str, float]:
    found = _VALUE.findall(values)
    return {"p" + percent if percent else name: float(value) for name, percent, value in found}


def _dotted(number: str) -> str:
    """v8601 is 8.6.1, v100300 is 10.3.0: from 10 on two digits for each part."""
    if len(number) < 6:
        return ".".join((number[:-3], number[-3], number[-1]))
    return f"{int(number[:-4])}.{int(number[-4:-2])}.{int(number[-2:])}"


def refuse_unlike(engine: Mapping[str, Any], theirs: Summary) -> None:
    """Raise UsageError where ``theirs`` was not run as our ``engine`` was; what a log does not say is let pass."""
    version, graph = engine.get("tensorrt"), engine.get("cuda_graph")
    if theirs.tensorrt is not None and theirs.tensorrt.split(".") != str(version).split(".")[:3]:
        raise UsageError(
            f"The log is of TensorRT {theirs.tensorrt}, but the report of {version}. Measure both with the same "
            "version."
        )
    if theirs.cuda_graph is not None and theirs.cuda_graph != graph:
        with_graph = "log" if theirs.cuda_graph else "report"
        raise UsageError(
            f"Only the {with_graph} is of a run with CUDA graphs. Use --cuda-graph for both, or for neither."
        )


def beside(ours: Mapping[str, Any], theirs: Summary) -> dict[str, Any]:
    """Our GPU time (a row's latency as JSON: p50_ms, p90_ms, p99_ms) next to trtexec's, and whether they agree.

    They agree where the medians differ by 5 % or 20 microseconds at most, whichever is larger (card 2.1).
    """
    gpu = theirs.times["GPU Compute Time"]
    difference, allowed = ours["p50_ms"] - gpu["median"], max(SHARE * gpu["median"], MICROSECONDS / 1000)
    pairs: dict[str, tuple[Any, Any]] = {"p50": (ours["p50_ms"], gpu["median"])}
    pairs.update({name: (ours.get(name + "_ms"), gpu.get(name)) for name in ("p90", "p99")})
    return {
        "ms": {name: {"ours": here, "trtexec": there} for name, (here, there) in pairs.items()},
        "difference_ms": difference,
        "allowed_ms": allowed,
        "agrees": abs(difference) <= allowed,
        "tensorrt": theirs.tensorrt,
        "warnings": list(theirs.warnings),
    }


def workspace(path: PathLike, name: str) -> int:
    """Bytes that the engine of ``name`` in our report at ``path`` was built with; a small board's where there is none."""
    if not os.path.exists(str(path)):
        return WORKSPACES[0]
    report = DeviceReport.from_json(files.read_json(path))
    engines = [row.engine for row in report.rows if row.stage == name and row.engine is not None]
    return int(engines[0]["workspace"]) if engines else WORKSPACES[0]


def timed(report: DeviceReport, name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The GPU's own time of one model file in a report of ours, as JSON, and its engine; raises UsageError without one."""
    row = next((row.to_json() for row in report.rows if row.stage == name), {})
    if row.get("gpu") is None or row.get("engine") is None:
        raise UsageError(f"The report holds no GPU time of {name}. Measure it with --runtime tensorrt --file {name}.")
    return row["gpu"], row["engine"]
