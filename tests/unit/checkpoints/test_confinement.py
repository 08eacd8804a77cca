"""The child's cell: what it cannot do, how it ends, what the parent makes of it."""

import ctypes
import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_files import saved, state

from edgekd import checkpoints
from edgekd.checkpoints import confine, sandbox, worker
from edgekd.checkpoints.limits import Limits
from edgekd.errors import EnvironmentFault, UnsafeInput, UsageError

READY = "import sys, os, time; sys.stdout.buffer.write(b'R'); sys.stdout.buffer.flush(); "

# tries everything a hostile parser could, under the real confinement, and reports what worked
ATTEMPTS = """
import ctypes, json, os, resource, socket, subprocess, sys
sys.path.extend({roots!r})
from edgekd.checkpoints.confine import confine
target = {target!r}
done = {{"held": list(confine(20, 768 << 20))}}
def attempt(name, act):
    try:
        act()
        done[name] = "worked"
    except BaseException as error:
        done[name] = type(error).__name__
attempt("write", lambda: open(os.path.join(target, "made"), "w").write("x"))
attempt("append", lambda: open(os.path.join(target, "there"), "a").write("x"))
attempt("change", lambda: open(os.path.join(target, "there"), "r+").write("x"))
attempt("delete", lambda: os.unlink(os.path.join(target, "there")))
attempt("rename", lambda: os.rename(os.path.join(target, "there"), os.path.join(target, "moved")))
attempt("folder", lambda: os.mkdir(os.path.join(target, "folder")))
attempt("link", lambda: os.symlink("/etc", os.path.join(target, "link")))
attempt("truncate", lambda: os.truncate(os.path.join(target, "there"), 0))
attempt("mode", lambda: os.chmod(os.path.join(target, "there"), 0o777))
attempt("times", lambda: os.utime(os.path.join(target, "there"), (1, 1)))
attempt("notes", lambda: os.setxattr(os.path.join(target, "there"), "user.a", b"b", follow_symlinks=False))
attempt("limits of the parent", lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (64, 64)))
attempt("priority of the parent", lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19))
attempt("processors of the parent", lambda: os.sched_setaffinity(os.getppid(), {{0}}))
attempt("socket", lambda: socket.socket())
attempt("unix socket", lambda: socket.socket(socket.AF_UNIX))
attempt("program", lambda: subprocess.run(["true"]))
attempt("exec", lambda: os.execv("/bin/true", ["true"]))
attempt("fork", lambda: os.fork())
attempt("kill", lambda: os.kill(os.getppid(), 0))
attempt("memory file", lambda: os.memfd_create("x"))
attempt("memory", lambda: bytearray(4 << 30))
attempt("many files", lambda: [open("/dev/null") for _ in range(100)])
attempt("read", lambda: open(os.path.join(target, "there")).read())
print(json.dumps(done))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux filters system calls")
def test_the_cell_holds(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("as before")
    code = ATTEMPTS.format(roots=sandbox.roots(), target=str(tmp_path))
    ended = subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code], capture_output=True, text=True, check=False)
    done = json.loads(ended.stdout)
    held = done.pop("held")
    assert done.pop("read") == "worked"  # modules are read; what was read can leave by the answer alone
    assert "limits" in held
    if "system calls filtered" in held:
        assert "worked" not in done.values(), done
        assert done["socket"] == done["write"] == "PermissionError"
        assert done["memory"] == "MemoryError"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "as before"


def test_this_machine_says_what_holds() -> None:
    held = checkpoints.protections()
    assert held[0] == "limits"
    if sys.platform == "linux" and os.uname().machine in ("x86_64", "aarch64"):
        assert {"system calls filtered", "no new privileges", "dies with its parent"} <= set(held)


def running(boot: str, data: bytes = b"x", **limits: Any) -> Any:
    return sandbox.run("teacher", data, "bad.pt", boot=boot, limits=Limits(**limits))


def test_a_child_that_does_not_end_is_killed() -> None:
    started = time.monotonic()
    with pytest.raises(UnsafeInput, match=r"bad\.pt: reading it did not finish within 1 s"):
        running(READY + "time.sleep(60)", seconds=0.7)
    with pytest.raises(UnsafeInput, match="did not finish"):
        running(READY + "os.close(1); time.sleep(60)", seconds=0.7)
    assert time.monotonic() - started < 20


def test_a_child_that_never_stops_talking_is_killed() -> None:
    with pytest.raises(UnsafeInput, match="reasonable size"):
        running(READY + "[sys.stdout.buffer.write(bytes(1 << 20)) for _ in range(1 << 20)]")


def test_a_child_that_dies_of_its_processor_time() -> None:
    with pytest.raises(UnsafeInput, match="processor time"):
        running(READY + "import signal; os.kill(os.getpid(), signal.SIGXCPU)")


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("os.kill(os.getpid(), 11)", "crashed the parser \\(signal 11\\)"),
        ("os._exit(7)", "crashed the parser \\(status 7\\)"),
        ("pass", "nonsense"),
        ("os.write(1, b'12345678')", "nonsense"),
        ("os.write(1, (1 << 40).to_bytes(8, 'little') + b'{}')", "nonsense"),
        ("os.write(1, (2).to_bytes(8, 'little') + b'{]')", "nonsense"),
        ("os.write(1, (2).to_bytes(8, 'little') + b'[]')", "nonsense"),
    ],
)
def test_a_child_that_breaks(code: str, word: str) -> None:
    with pytest.raises(UnsafeInput, match=word):
        running(READY + code)


def test_a_child_that_does_not_start_is_not_the_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentFault, match="did not start"):
        running("import nothing_like_this", data=bytes(1 << 20))
    with pytest.raises(EnvironmentFault, match="No module named 'edgekd'"):
        running(sandbox.BOOT.format(roots=[]))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EnvironmentFault, match="Could not start"):
        running(READY)


def test_the_environment_of_the_child_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the parent")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    code = READY + "import json; t = json.dumps([dict(os.environ), os.listdir()]).encode();"
    code += "t = b'{\"all\": %s}' % t; os.write(1, len(t).to_bytes(8, 'little') + t)"
    header, rest = running(code)
    environment, folder = header["all"]
    assert set(environment) == {"LC_ALL", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LD_LIBRARY_PATH"}
    assert folder == []
    assert rest == b""


def test_a_child_that_stops_listening_is_heard_to_its_end() -> None:
    code = "import os, time; os.close(0); os.write(1, b'E no room'); time.sleep(0.3); raise SystemExit(1)"
    with pytest.raises(EnvironmentFault, match="no room, status 1"):
        running(code, data=bytes(5_000_000))


def test_large_inputs_pass_through_the_pipe() -> None:
    code = (
        READY
        + "n = len(sys.stdin.buffer.read()); t = b'{\"n\": %d}' % n; os.write(1, len(t).to_bytes(8, 'little') + t)"
    )
    assert running(code, data=bytes(5_000_000))[0] == {"n": 5_000_000}


# ---- the child's own code, in this process ---------------------------------------------------------------------------


class Kernel:
    """Records the calls of `confine`; ``refusing`` names those that fail."""

    def __init__(self, *refusing: int) -> None:
        self.refusing = refusing
        self.calls: list[tuple[Any, ...]] = []

    def unshare(self, flags: int) -> int:
        self.calls.append(("unshare", flags))
        return -1 if 0 in self.refusing else 0

    def prctl(self, option: int, *arguments: Any) -> int:
        self.calls.append((option, *arguments))
        return -1 if option in self.refusing else 0


@pytest.fixture
def no_limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    set_limits: list[tuple[Any, ...]] = []
    monkeypatch.setattr(confine, "limit", lambda *arguments: set_limits.append(arguments))
    return set_limits


@pytest.mark.parametrize(
    ("refusing", "missing"),
    [
        ((), set()),
        ((0,), {"empty network"}),
        ((1,), {"dies with its parent"}),
        ((38,), {"no new privileges", "system calls filtered"}),
        ((22,), {"system calls filtered"}),
    ],
)
def test_each_layer_is_used_where_it_exists(refusing: Any, missing: set[str], no_limits: list[Any]) -> None:
    every = {"limits", "empty network", "dies with its parent", "no new privileges", "system calls filtered"}
    assert set(confine.confine(3, 1 << 30, Kernel(*refusing), "x86_64")) == every - missing
    assert no_limits == [(3, 1 << 30)]


def test_other_machines_do_without_the_filter(no_limits: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "system calls filtered" not in confine.confine(3, 1 << 30, Kernel(), "riscv64")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert confine.confine(3, 1 << 30) == ("limits",)


class Resources:
    """The resource module of a platform without RLIMIT_NPROC and with a low hard limit."""

    RLIM_INFINITY = -1
    RLIMIT_AS, RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_NOFILE, RLIMIT_CORE = range(5)

    def __init__(self) -> None:
        self.found: dict[int, tuple[int, int]] = {}

    def getrlimit(self, kind: int) -> tuple[int, int]:
        return (0, 100) if kind == self.RLIMIT_AS else (0, -1)

    def setrlimit(self, kind: int, pair: tuple[int, int]) -> None:
        self.found[kind] = pair


def test_limits_are_lowered_never_raised() -> None:
    resources = Resources()
    confine.limit(2.4, 1 << 30, resources)
    assert resources.found == {0: (100, 100), 1: (2, 2), 2: (0, 0), 3: (64, 64), 4: (0, 0)}
    assert resource.RLIMIT_NPROC >= 0


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_decides_as_it_should(machine: str) -> None:
    """Runs the filter's own steps, as the kernel would."""
    code = confine.program(machine)
    steps = [struct.unpack_from("<HBBI", code, 8 * index) for index in range(len(code) // 8)]
    column = confine._MACHINES[machine][1]

    def verdict(call: int, arch: int, arguments: tuple[int, ...] = (0,) * 6) -> int:
        facts = struct.pack("<IIQ6Q", call, arch, 0, *arguments)
        value = position = 0
        while True:
            kind, yes, no, number = steps[position]
            position += 1
            if kind == confine._LOAD:
                (value,) = struct.unpack_from("<I", facts, number)
            elif kind == confine._AND:
                value &= number
            elif kind == confine._RETURN:
                return number
            else:
                hit = value == number if kind == confine._EQUAL else value >= number
                position += yes if hit else no

    arch = confine._MACHINES[machine][0]
    assert verdict(0, 0x40000003) == confine._KILL  # 32-bit calls
    for numbers in confine._DENIED.values():
        if numbers[column] >= 0:
            assert verdict(numbers[column], arch) == confine._DENY
    assert verdict(0x40000000 | 41, arch) == confine._DENY
    for call in {"x86_64": (0, 1, 3, 5, 9, 12, 231), "aarch64": (63, 64, 57, 80, 222, 214, 94)}[machine]:
        assert verdict(call, arch) == confine._ALLOW
    opens = [(confine._OPENAT[column], 2)] + ([(confine._OPEN[column], 1)] if column == 0 else [])
    for call, place in opens:
        for flags, wanted in (
            (os.O_RDONLY, confine._ALLOW),
            (os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, confine._ALLOW),
            (os.O_WRONLY, confine._DENY),
            (os.O_RDWR, confine._DENY),
            (os.O_RDONLY | os.O_CREAT, confine._DENY),
            (os.O_RDONLY | os.O_TRUNC, confine._DENY),
            (os.O_RDWR | 0o20000000, confine._DENY),
        ):
            arguments = tuple(flags if index == place else 0 for index in range(6))
            assert verdict(call, arch, arguments) == wanted


def test_the_structure_of_the_filter_is_the_kernels() -> None:
    assert ctypes.sizeof(ctypes.c_void_p) == 8
    assert len(confine.program("x86_64")) % 8 == 0
    assert len(confine.program("x86_64")) // 8 < 4096


def served(job: str, data: bytes, monkeypatch: pytest.MonkeyPatch, ending: str = ".pt") -> tuple[dict[str, Any], bytes]:
    monkeypatch.setattr(confine, "confine", lambda seconds, memory: ("limits", seconds, memory))
    monkeypatch.setattr(sys, "argv", ["worker", job, ending, str(1 << 20), "2.5", "1000"])
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out))
    worker.serve()
    sys.stdout.flush()
    return sandbox._unpacked(out.getvalue(), "bad.pt")


def test_the_workers_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        assert served("nothing", b"", patch) == ({"protections": ["limits", 2.5, 1000]}, b"")
    for data, kind in ((saved(state()), "torch-zip"), (saved(state(), legacy=True), "torch-legacy")):
        with monkeypatch.context() as patch:
            header, numbers = served("teacher", data, patch)
            assert header["format"] == kind
            assert len(numbers) > 400
    with monkeypatch.context() as patch, pytest.raises(UnsafeInput, match=r"bad\.pt: .*Sequential"):
        served("teacher", saved(torch.nn.Sequential()), patch)
    with monkeypatch.context() as patch, pytest.raises(UsageError, match=r"bad\.pt: .*text"):
        served("teacher", b"some text", patch)


def test_the_worker_reads_every_format(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import safetensors.torch
    from onnx import TensorProto, helper
    from small_files import batch

    data = safetensors.torch.save({"module.w": torch.ones(2)}, {"a": "b"})
    header, _ = worker.answer("teacher", data, ".safetensors", 1000)
    assert header["layout"] == ["module."]
    assert header["metadata"] == {"a": "b"}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    header, pieces = worker.answer("teacher", data, ".onnx", 1000)
    assert header["metadata"]["operators"] == {"Relu": 1}
    assert pieces == []
    images = np.zeros(3072, np.uint8).tobytes()
    assert worker.answer("cifar", batch(images, [7]), "", 0) == ({"labels": [7], "shape": [1, 3072]}, [images])


def test_the_worker_turns_every_failure_into_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: BaseException) -> Any:
        def job(*_: Any) -> Any:
            raise error

        return job

    for error, word in ((MemoryError(), "more memory"), (RecursionError(), "broke the reader (RecursionError)")):
        monkeypatch.setitem(worker.JOBS, "teacher", raising(error))
        header, _ = worker.answer("teacher", b"", "", 0)
        assert header["refused"] == "unsafe"
        assert word in header["message"]


@pytest.mark.skipif(sys.platform != "linux", reason="death with the parent is Linux's")
def test_the_child_dies_with_its_parent() -> None:
    """A parent killed in the middle leaves no parser behind."""
    code = f"""
import subprocess, sys
sys.path.extend({sandbox.roots()!r})
from edgekd.checkpoints import sandbox
boot = "import sys; sys.path.extend({sandbox.roots()!r})\\n" \\
    "from edgekd.checkpoints.confine import confine; confine(50, 1 << 30); import time; time.sleep(50)"
class Loud(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        print(self.pid, flush=True)
subprocess.Popen = Loud
sandbox.run("teacher", b"", "x", boot=boot)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    for _ in range(100):
        if "NoNewPrivs:\t1" in Path(f"/proc/{child}/status").read_text():
            break
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1][:3]:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child lives on")
