"""Engines are built in real child processes here: they crash, are killed, break off, and are left alone by their parent."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trt_models
from bad_engines import besides_builds, half_written, write_engine_bundle
from libraries import HERE

from edgekd_device import files
from edgekd_device.errors import EnvironmentFault, UnsafeInput, UsageError
from edgekd_device.runtime import builder, trt_build
from edgekd_device.runtime.engines import Store
from edgekd_device.runtime.trt_build import Built, Recipe

HOW = Recipe("weak", ("FP16", "INT8"), 64, 768 << 20)
# A module tensorrt whose builder does one thing; what comes before it is what `trt_build` asks for first.
MODULE = """
import ctypes, os, pathlib, signal, sys, time
__version__ = "10.3.0"
class ILogger:
    class Severity: WARNING, ERROR, INTERNAL_ERROR = 2, 1, 0
class BuilderFlag: FP16, INT8 = 0, 1
class Builder:
    def __init__(self, log):
        {act}
"""
FAKE = """
import ctypes, sys
sys.path.append({here!r})
import fake_tensorrt
sys.modules[__name__], _ = fake_tensorrt.make("10.3.0", ctypes.CDLL("libcudart.so.12"))
"""
SLEEP = "pathlib.Path({mark!r}).write_text(str(os.getpid())); time.sleep(600)"


def module(folder: Path, act: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tensorrt.py").write_text(MODULE.format(act=act))
    return folder


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Builds with a module whose builder does ``act``, in a child that imports it anew."""

    def run(act: str) -> Built:
        monkeypatch.syspath_prepend(module(tmp_path / "modules", act))
        return builder.build("10.3.0", Store(tmp_path / "engines").path, b"model", HOW, b"timings")

    return run


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("ctypes.string_at(0)", r"TensorRT 10\.3\.0 crashed while it built the engine: Segmentation fault\. Close what"),
        ("os.kill(os.getpid(), signal.SIGKILL)", r"was killed while it built the engine, as the kernel does when memory"),
        ("print('terminate called\\x1b[2J'); sys.stdout.flush(); os.abort()", r"Aborted \(terminate called \[2J\)\. Close"),
        ("os.write(2, b'no licence\\n\\n'); os._exit(3)", r"broke off .* with exit code 3 \(no licence\)\. Close"),
        ("raise RuntimeError('out of\\nGPU memory')", r"does not start\. See edgekd-device doctor"),
        ("raise MemoryError", r"with exit code 1 \(MemoryError\)\. Close whatever else uses memory"),
        ("raise KeyError(open('/proc/self/oom_score_adj').read().strip())", r"exit code 1 \(KeyError: '1000'\)"),
        ("raise KeyError(__import__('resource').getrlimit(4))", r"exit code 1 \(KeyError: \(0, 0\)\)"),
    ],
)  # fmt: skip
def test_a_child_that_does_not_end_well_is_one_message(act, words, build, tmp_path):
    said: list[object] = []
    before = open_files()
    with (
        pytest.raises(EnvironmentFault, match=words) as caught,
        trt_build.heartbeat(lambda *report: said.append(report), "x"),
    ):
        build(act)
    assert str(caught.value).isprintable()
    assert said[-1] == ("x", 1, 1, {})
    assert [path.name for path in (tmp_path / "engines").iterdir()] == ["key"]
    assert open_files() == before


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_heartbeat_goes_on_until_the_child_crashes(build, monkeypatch):
    said: list[object] = []
    monkeypatch.setattr(trt_build, "BEAT", 0.02)
    with pytest.raises(EnvironmentFault), trt_build.heartbeat(lambda *report: said.append(report), "x"):
        build("time.sleep(0.5); ctypes.string_at(0)")
    assert len(said) > 5


def test_no_interpreter_and_no_folder(build, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(EnvironmentFault, match="Cannot start Python to build the engine"):
        build("pass")
    with pytest.raises(EnvironmentFault, match="Cannot write into"):
        builder.build("10.3.0", tmp_path / "nowhere", b"", HOW, b"")


def test_a_builder_that_hangs_is_ended(build, monkeypatch):
    monkeypatch.setattr(builder, "LONGEST", 0.3 / 3600)
    with pytest.raises(EnvironmentFault, match=r"had not built the engine after .* so it was stopped"):
        build("time.sleep(600)")


def test_an_interruption_ends_the_child_before_it_goes_on(build, monkeypatch):
    children = []

    def interrupted(self: subprocess.Popen[bytes], words: bytes, timeout: float) -> None:
        children.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build("time.sleep(600)")
    assert [child.returncode for child in children] == [-signal.SIGKILL]


def answered(folder: Path, data: bytes) -> Built:
    with files.nameless(folder) as back:
        files.give(back.fileno(), data)
        return builder._answer("10.3.0", back)


@pytest.mark.parametrize("kind", [UsageError, UnsafeInput, EnvironmentFault])
def test_what_the_child_refuses_is_refused_here(kind, tmp_path):
    words = json.dumps({"error": kind.__name__, "message": "it is so"}).encode()
    with pytest.raises(kind, match=r"^it is so$") as caught:
        answered(tmp_path, words)
    assert type(caught.value) is kind


def test_an_answer_that_is_not_whole_is_no_engine(tmp_path):
    head = {"plan": 4, "timings": 2, "unscaled": 1, "sha256": files.sha256_bytes(b"planti")}
    good = json.dumps(head).encode() + b"\nplanti"
    assert answered(tmp_path, good) == Built(b"plan", b"ti", 1)
    for bad in (
        b"",
        b"{",
        b"[]",
        b'{"error": "Odd"}',
        good[:-1],
        good[:-1] + b"x",
        good.replace(b'"unscaled"', b'"u"'),
    ):
        with pytest.raises(EnvironmentFault, match="came back incomplete"):
            answered(tmp_path, bad)


def test_a_full_disk_is_said(tmp_path):
    with (
        pytest.raises(EnvironmentFault, match="Could not pass on what was built: No space left"),
        open("/dev/full", "wb") as full,
    ):
        files.give(full.fileno(), b"x")


def test_an_engine_that_finds_no_room_says_where_to_make_some(build, tmp_path):
    """The child ends as it does where its file's disk is full."""
    with pytest.raises(
        EnvironmentFault, match=r"cannot take the engine \(no room\)\. Free some space there, or set EDGEKD_"
    ):
        build(f"print('no room', file=sys.stderr); raise SystemExit({builder.NO_ROOM})")


def test_a_child_whose_answer_finds_no_room_ends_as_such(tmp_path, capsys):
    order = {"back": os.open("/dev/full", os.O_WRONLY), "timings": 0, "recipe": {**HOW._asdict()}}
    with pytest.raises(SystemExit) as ended:
        builder.work(order, io.BytesIO(b"model"))
    assert ended.value.code == builder.NO_ROOM
    assert "No space left" in capsys.readouterr().err
    os.close(order["back"])


# ---- the whole command, as a user starts it -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jetson_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engine_bundle(tmp_path_factory.mktemp("jetson"))


@pytest.fixture
def around(tmp_path: Path, cuda_library: Path) -> dict[str, str]:
    """An environment in which the fake CUDA runtime and the module in ``modules`` are found."""
    (tmp_path / "stand").mkdir()
    (tmp_path / "stand" / "json.py").write_text("raise SystemExit('imported from where the user stands')")
    there = {"LD_LIBRARY_PATH": str(cuda_library.parent), "EDGEKD_ENGINES": str(tmp_path / "engines")}
    return {**os.environ, **there, "PYTHONPATH": str(tmp_path / "modules")}


def started(bundle: Path, around: dict[str, str], stand: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(bundle / "edgekd-device.pyz"), "build", str(bundle)]
    return subprocess.Popen(command, env=around, cwd=stand, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_pyz_outlives_a_crash_and_then_builds(jetson_bundle, around, tmp_path):
    module(tmp_path / "modules", "ctypes.string_at(0)")
    with started(jetson_bundle, around, tmp_path / "stand") as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (4, "")
    assert err.startswith("building the engine of model.qdq.onnx\n")  # no terminal: in plain lines
    assert besides_builds(err).startswith(
        "edgekd-device: model.qdq.onnx: TensorRT 10.3.0 crashed while it built the engine: Segmentation"
    )
    assert besides_builds(err).count("\n") == 1
    (tmp_path / "modules" / "tensorrt.py").write_text(FAKE.format(here=str(HERE)))
    with started(jetson_bundle, around, tmp_path / "stand") as process:
        out, err = process.communicate()
    assert (process.returncode, besides_builds(err)) == (0, "")
    assert "model.qdq.onnx: built in " in out
    assert half_written(tmp_path / "engines") == []
    (kept,) = (tmp_path / "engines").glob("*.plan")
    assert kept.read_bytes().endswith(trt_models.model())
    assert os.listdir(tmp_path / "stand") == ["json.py"]  # no core file either


@contextlib.contextmanager
def building(bundle: Path, around: dict[str, str], tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command while its child builds, and the child's process number."""
    mark = tmp_path / "child"
    module(tmp_path / "modules", SLEEP.format(mark=str(mark)))
    with started(bundle, around, tmp_path / "stand") as process:
        try:
            until = time.monotonic() + 60
            while not (mark.exists() and mark.read_text()):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < until
                time.sleep(0.02)
            yield process, int(mark.read_text())
        finally:
            process.kill()


def gone(number: int) -> bool:
    """Whether a process has ended; a dead one that nobody asked after counts."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_parent_that_ends_takes_its_child_along(number, jetson_bundle, around, tmp_path):
    with building(jetson_bundle, around, tmp_path) as (process, child):
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert (out, "Interrupted" in err) == ("", number == signal.SIGINT)
    assert gone(child)
    assert [path.name for path in (tmp_path / "engines").iterdir()] == ["key"]


def test_a_child_that_the_kernel_takes_leaves_the_command_alive(jetson_bundle, around, tmp_path):
    with building(jetson_bundle, around, tmp_path) as (process, child):
        os.kill(child, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (4, "")
    assert "was killed while it built the engine" in err
    assert besides_builds(err).count("\n") == 1
    assert [path.name for path in (tmp_path / "engines").iterdir()] == ["key"]


def test_a_child_whose_parent_is_another_does_nothing(tmp_path):
    words = json.dumps({"path": sys.path, "parent": 1, "back": 0, "recipe": {}, "timings": 0}).encode() + b"\n"
    ended = subprocess.run([sys.executable, "-I", "-c", builder.CODE], input=words, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, b"", b"")
