"""trtexec's logs read and put beside ours: the formats of 10.x and 11.x, flags per version, what is refused."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os

import fake_tensorrt
import pytest
import trt_models
from bundles import TARGET, graph, write_bundle

from edgekd_device import files, graph_facts, trtexec
from edgekd_device.__main__ import main
from edgekd_device.errors import UsageError
from edgekd_device.records import DeviceReport, Latency, StageRow
from edgekd_device.runtime import trt_build

SPREAD = "min = {} ms, max = {} ms, mean = {} ms, median = {} ms, percentile(90%) = {} ms, percentile(95%) = {} ms, percentile(99%) = {} ms"
LINES = (
    "=== Performance summary ===",
    "Throughput: 1234.56 qps",
    "Latency: " + SPREAD.format(0.71, 0.93, 0.74, 0.73, 0.76, 0.77, 0.81),
    "Enqueue Time: " + SPREAD.format(0.01, 0.09, 0.02, 0.02, 0.03, 0.03, 0.04),
    "H2D Latency: " + SPREAD.format(0.02, 0.03, 0.02, 0.021, 0.02, 0.02, 0.03),
    "GPU Compute Time: " + SPREAD.format(0.65, 0.88, 0.69, 0.68, 0.7, 0.72, 0.75),
    "D2H Latency: " + SPREAD.format(0.01, 0.02, 0.01, 0.012, 0.01, 0.01, 0.02),
    "Total Host Walltime: 3.002 s",
    "Total GPU Compute Time: 2.8 s",
)
HEAD = "&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b26] # trtexec --onnx=model.qdq.onnx"
UNSTABLE = "* GPU compute time is unstable, with coefficient of variance = 4.1%."


def stamped(lines: tuple[str, ...] = LINES) -> str:
    """A log as it is written, its lines dated."""
    head = [
        HEAD,
        f"[07/25/2026-09:08:27] [W] {UNSTABLE}",
        "[07/25/2026-09:08:27] [I] Average on 10 runs - GPU latency: 9 ms",
    ]
    return "\n".join([*head, *(f"[07/25/2026-09:08:28] [I] {line}" for line in lines), "&&&& PASSED"])


@pytest.mark.parametrize("log", [stamped(), "\n".join(LINES)], ids=["dated", "bare"])
def test_a_summary_is_read_part_by_part(log):
    found = trtexec.parse(log)
    assert found.throughput == 1234.56
    assert set(found.times) == {"Latency", "Enqueue Time", "H2D Latency", "GPU Compute Time", "D2H Latency"}
    assert found.times["GPU Compute Time"] == {
        "min": 0.65, "max": 0.88, "mean": 0.69, "median": 0.68, "p90": 0.7, "p95": 0.72, "p99": 0.75,
    }  # fmt: skip
    assert found.times["Latency"]["median"] == 0.73
    assert found.times["H2D Latency"]["median"] == 0.021
    assert found.seconds == {"Host Walltime": 3.002, "GPU Compute Time": 2.8}


def test_the_log_says_its_version_and_its_doubts():
    found = trtexec.parse(stamped())
    assert found.tensorrt == "10.3.0"
    assert found.warnings == (UNSTABLE,)
    assert trtexec.parse("\n".join(LINES)).tensorrt is None
    assert trtexec.parse(stamped().replace("v100300", "v101601")).tensorrt == "10.16.1"
    assert trtexec.parse(stamped().replace("v100300", "v8601")).tensorrt == "8.6.1"


def test_of_several_runs_the_last_counts():
    again = tuple(line.replace("median = 0.68", "median = 0.5") for line in LINES)
    assert trtexec.parse(stamped() + stamped(again)).times["GPU Compute Time"]["median"] == 0.5


@pytest.mark.parametrize(
    "log",
    ["", stamped(LINES[1:]), stamped(LINES[:1]), stamped(LINES[:3])],
    ids=["empty", "no heading", "cut at the heading", "cut within"],
)
def test_a_log_cut_short_is_refused(log):
    with pytest.raises(UsageError, match="no performance summary"):
        trtexec.parse(log)


@pytest.mark.parametrize(
    ("model", "version", "graph", "present", "absent"),
    [
        ("model.qdq.onnx", "10.3.0", False, {"--int8", "--fp16", "--useSpinWait", "--noDataTransfers"}, {"--useCudaGraph", "--stronglyTyped"}),
        ("b/model.qdq.fp16.onnx", "10.16.1", True, {"--stronglyTyped", "--useCudaGraph"}, {"--int8", "--fp16"}),
        ("model.fp16.onnx", "11.4.0", False, {"--noCudaGraph"}, {"--useSpinWait", "--noDataTransfers", "--stronglyTyped", "--fp16"}),
        ("model.onnx", "10.3.0", False, {"--useSpinWait"}, {"--stronglyTyped", "--int8", "--fp16"}),
        ("model.onnx", "11.1", True, set(), {"--noCudaGraph", "--useCudaGraph"}),
    ],
)  # fmt: skip
def test_flags_are_said_for_each_version(model, version, graph, present, absent):
    words = trtexec.command(model, version, (3, 32, 32), cuda_graph=graph)
    assert words[:3] == [trtexec.PLACE, f"--onnx={model}", "--shapes=input:1x3x32x32"]
    assert {"--infStreams=1", "--noTF32", "--memPoolSize=workspace:768"} <= set(words)
    assert words[3:6] == [f"--{end}Shapes=input:{n}x3x32x32" for end, n in (("min", 1), ("opt", 1), ("max", 64))]
    assert present <= set(words)
    assert not absent & set(words)


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1"])
@pytest.mark.parametrize("model", trt_models.FLAVOURS)
def test_trtexec_builds_a_file_as_run_does(model, version):
    """The same typing, types, batches and workspace as the recipe of the engine that it is held against."""
    trt, _ = fake_tensorrt.make("10.3.0", ctypes.CDLL(None))
    how = trt_build.recipe(trt, graph_facts.read(trt_models.model(model)), 4 << 30)
    words = trtexec.command(model, version, (3, 8, 8))
    assert ("--stronglyTyped" in words) == (how.typing == "strong")
    assert {word for word in words if word in ("--fp16", "--int8")} == {f"--{flag.lower()}" for flag in how.flags}
    assert f"--maxShapes=input:{how.max_batch}x3x8x8" in words
    assert f"--memPoolSize=workspace:{how.workspace >> 20}" in words


@pytest.mark.parametrize(
    ("model", "version", "why"),
    [
        ("model.qdq.onnx", "11.4.0", "Give model.qdq.fp16.onnx"),
        ("model.onnx", "8.6.2", "10.3 or newer"),
        ("model.onnx", "new", "10.3 or newer"),
    ],
)
def test_what_a_version_cannot_build_as_meant_is_refused(model, version, why):
    with pytest.raises(UsageError, match=why):
        trtexec.command(model, version, (3, 32, 32))


@pytest.mark.parametrize(
    ("p50", "agrees"), [(0.68, True), (0.7139, True), (0.7141, False), (0.6461, True), (0.6459, False)]
)
def test_medians_may_differ_by_five_per_cent(p50, agrees):
    found = trtexec.beside({"p50_ms": p50, "p90_ms": 0.71, "p99_ms": None}, trtexec.parse(stamped()))
    assert found["agrees"] is agrees
    assert found["ms"]["p90"] == {"ours": 0.71, "trtexec": 0.7}
    assert found["ms"]["p99"] == {"ours": None, "trtexec": 0.75}
    assert found["warnings"] == [UNSTABLE]


def test_of_a_tiny_network_twenty_microseconds_are_allowed():
    tiny = trtexec.parse("\n".join(LINES).replace("median = 0.68", "median = 0.1"))
    assert trtexec.beside({"p50_ms": 0.119}, tiny)["agrees"] is True
    assert trtexec.beside({"p50_ms": 0.121}, tiny)["agrees"] is False


@pytest.fixture
def board_bundle(tmp_path):
    """A bundle for TensorRT with a report of the board beside it, and trtexec's log."""
    target = dataclasses.replace(TARGET, runtime="tensorrt", ships="model.qdq.onnx", files=("model.qdq.onnx",))
    folder = write_bundle(tmp_path, {"model.qdq.onnx": graph(quantised=True)}, target=target, references={})
    time = Latency(1, 9000, 0.69, 0.72, 0.8, 0.7, 0.6, 0.9)
    engine = {"tensorrt": "10.3.0", "cuda_graph": False, "workspace": 1 << 30}
    row = StageRow("model.qdq.onnx", "stage", "tensorrt", "int8", "0" * 64, gpu=time, engine=engine)
    report = DeviceReport("0" * 64, "smoke", True, (), (row,), {})
    files.write_json(folder / "device-report.json", report.to_json())
    (folder.parent / "trtexec.log").write_text(stamped())
    return folder


def test_the_command_line_is_printed_for_the_shell(board_bundle, capsys):
    assert main(["trtexec", str(board_bundle), "--tensorrt", "10.3.0"]) == 0
    words = capsys.readouterr().out.split()
    assert words[:2] == [trtexec.PLACE, f"--onnx={board_bundle}{os.sep}model.qdq.onnx"]
    assert {"--shapes=input:1x3x8x8", "--int8", "--memPoolSize=workspace:1024"} <= set(words)  # of the report's engine
    assert main(["trtexec", str(board_bundle), "--tensorrt", "10.3.0", "--file", "model.onnx"]) == 0
    assert "--memPoolSize=workspace:768" in capsys.readouterr().out
    (board_bundle / "device-report.json").unlink()
    assert main(["trtexec", str(board_bundle), "--tensorrt", "10.3.0"]) == 0
    assert "--memPoolSize=workspace:768" in capsys.readouterr().out
    assert main(["trtexec", str(board_bundle), "--tensorrt", "11.4.0"]) == 2
    assert "Give model.qdq.fp16.onnx" in capsys.readouterr().err


def test_without_tensorrt_its_version_must_be_said(board_bundle, capsys):
    assert main(["trtexec", str(board_bundle)]) == 4
    assert "--tensorrt 10.3.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("release", "flags", "engine", "word"),
    [
        ("100300", "", {"tensorrt": "10.3.0", "cuda_graph": False}, ""),
        ("100300", " --useCudaGraph", {"tensorrt": "10.3.0.26", "cuda_graph": True}, ""),
        ("110400", "", {"tensorrt": "11.4.0.106", "cuda_graph": True}, ""),
        ("110400", " --noCudaGraph", {"tensorrt": "11.4.0.106", "cuda_graph": False}, ""),
        ("101601", "", {"tensorrt": "10.3.0", "cuda_graph": False}, "The log is of TensorRT 10.16.1, but the report of 10.3.0"),
        ("100300", " --useCudaGraph", {"tensorrt": "10.3.0", "cuda_graph": False}, "Only the log is of a run with CUDA graphs"),
        ("110400", " --noCudaGraph", {"tensorrt": "11.4.0", "cuda_graph": True}, "Only the report is of a run with CUDA"),
    ],
)  # fmt: skip
def test_only_like_is_held_against_like(release, flags, engine, word):
    log = stamped().replace(HEAD, HEAD.replace("100300", release) + flags)
    for found in (trtexec.parse(log), trtexec.parse(stamped() + log)):  # the last run counts
        if word:
            with pytest.raises(UsageError, match=word):
                trtexec.refuse_unlike(engine, found)
        else:
            trtexec.refuse_unlike(engine, found)
    trtexec.refuse_unlike(engine, trtexec.parse("\n".join(LINES)))  # a log that does not say


def test_our_report_and_their_log_side_by_side(board_bundle, capsys):
    log = board_bundle.parent / "trtexec.log"
    assert main(["trtexec", str(board_bundle), "--log", str(log)]) == 0
    out = capsys.readouterr().out
    assert "GPU p50  ours 0.6900 ms  trtexec 0.6800 ms" in out
    assert "difference of the medians +0.0100 ms, allowed 0.0340 ms" in out
    assert f"trtexec: {UNSTABLE}" in out
    log.write_text(stamped().replace("median = 0.68", "median = 0.5"))
    assert main(["trtexec", str(board_bundle), "--log", str(log)]) == 1


def test_a_file_that_was_not_measured_is_said(board_bundle, capsys):
    log = board_bundle.parent / "trtexec.log"
    assert main(["trtexec", str(board_bundle), "--file", "model.onnx", "--log", str(log)]) == 2
    assert "no GPU time of model.onnx. Measure it with --runtime tensorrt" in capsys.readouterr().err
    assert main(["trtexec", str(board_bundle), "--log", str(log) + ".absent"]) == 2
    value = json.loads((board_bundle / "device-report.json").read_text())
    files.write_json(board_bundle.parent / "other.json", {**value, "level": 3})
    assert (
        main(["trtexec", str(board_bundle), "--log", str(log), "--report", str(board_bundle.parent / "other.json")])
        == 2
    )


def test_control_characters_of_a_log_do_not_reach_the_terminal():
    assert (
        trtexec.parse(stamped().replace("unstable", "\x1b[31munstable"))
        .warnings[0]
        .startswith("* GPU compute time is ?[31m")
    )
