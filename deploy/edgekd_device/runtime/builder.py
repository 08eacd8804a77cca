"""An engine is built in a process of its own: TensorRT's builder may crash or take all memory, and the harness outlives it.

The child is a fresh interpreter, as CUDA does not survive a fork, with this one's path to modules; so it starts from a .pyz
as well. It gets the model on standard input, and answers into a file without a name in the folder of the engines: a line of
JSON and plain bytes, held against their SHA-256. Sealed and kept are they by the parent; of a build that fails nothing stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from typing import IO, Any, Mapping

from .. import files
from ..errors import EdgekdError, EnvironmentFault, UnsafeInput, UsageError
from . import trt_build
from .engines import VARIABLE
from .trt_build import Built, Recipe, plain

# isolated, so that nothing is imported from where the user happens to stand; then the path is the parent's
CODE = """import json, sys
order = json.loads(sys.stdin.buffer.readline())
sys.path[:] = order["path"]
from edgekd_device.runtime import builder
builder.child(order)
"""
KINDS = {kind.__name__: kind for kind in (UsageError, UnsafeInput, EnvironmentFault)}
PR_SET_PDEATHSIG = 1
HINT = "Close whatever else uses memory, and try again; --runtime onnxruntime measures on the processor."
NO_ROOM = 28  # a child's exit code: what it built could not be handed on
LONGEST = 2.0  # hours: the largest networks take minutes on the smallest board; beyond this it hangs


def build(version: str, folder: files.PathLike, model: bytes, how: Recipe, timings: bytes) -> Built:
    """`trt_build.build` in a child process; version: TensorRT's, for messages; folder: the engines', of this user alone.

    Raises what `trt_build.build` raises, and EnvironmentFault where the child crashes, is killed, hangs or finds the disk full.
    """
    with files.nameless(folder) as back:
        order = {
            "path": [str(entry) for entry in sys.path],
            "parent": os.getpid(),
            "back": back.fileno(),
            "recipe": how._asdict(),
            "timings": len(timings),
        }
        code, said = _run(json.dumps(order).encode("utf-8") + b"\n" + timings + model, back.fileno())
        if code == NO_ROOM:
            raise EnvironmentFault(
                f"{folder} cannot take the engine{_last(said)}. Free some space there, or set {VARIABLE} to another folder."
            )
        if code:
            raise EnvironmentFault(f"TensorRT {version} {_ending(code)}{_last(said)}. {HINT}")
        return _answer(version, back)


def _run(words: bytes, back: int) -> tuple[int, bytes]:
    """How a child that is told ``words`` ended, as subprocess says it, and what it printed."""
    command = [sys.executable, "-I", "-c", CODE]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        # a session of its own: Ctrl-C is the parent's to hear, and ends the child through it
        child = subprocess.Popen(command, pass_fds=(back,), start_new_session=True, **pipes)
    except OSError as error:
        raise EnvironmentFault(
            f"Cannot start {sys.executable or 'Python'} to build the engine: {error.strerror or error}."
        ) from error
    with child:
        try:
            said, _ = child.communicate(words, timeout=3600 * LONGEST)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise EnvironmentFault(
                f"TensorRT had not built the engine after {LONGEST:g} hours, so it was stopped. Close whatever else "
                "uses the GPU, and try again."
            ) from None
        except BaseException:
            child.kill()
            child.wait()
            raise
    return child.returncode, said


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed while it built the engine, as the kernel does when memory runs out"
    if code < 0:
        return f"crashed while it built the engine: {signal.strsignal(-code) or f'signal {-code}'}"
    return f"broke off while it built the engine, with exit code {code}"


def _last(said: bytes) -> str:
    lines = [line for line in said[-4096:].decode("utf-8", "replace").splitlines() if line.strip()]
    return f" ({plain(lines[-1]).rstrip('.')})" if lines else ""


def _answer(version: str, back: IO[bytes]) -> Built:
    """What the child wrote into ``back``: an engine, or why there is none."""
    back.seek(0)
    try:
        answer: Mapping[str, Any] = json.loads(back.readline().decode("utf-8"))
        if "error" in answer:
            raise KINDS[answer["error"]](answer["message"])
        built = Built(back.read(answer["plan"]), back.read(answer["timings"]), answer["unscaled"])
        whole = files.sha256_bytes(built.plan + built.timings) == answer["sha256"]
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise EnvironmentFault(f"The engine that TensorRT {version} built came back incomplete. Try again.")
    return built


def child(order: Mapping[str, Any]) -> None:
    """The child's whole life: it ends with its parent, is the first that a kernel short of memory takes, leaves no core file."""
    import resource

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != order["parent"]:  # it ended before it was asked for
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        handle = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(handle, b"1000")
        os.close(handle)
    work(order, sys.stdin.buffer)


def work(order: Mapping[str, Any], stream: IO[bytes]) -> None:
    """Build what was ordered, and answer; stream: what follows the order, timings of layers and the model."""
    timings, model = stream.read(order["timings"]), stream.read()
    how = Recipe(**{**order["recipe"], "flags": tuple(order["recipe"]["flags"])})
    data = b""
    answer: dict[str, Any]
    try:
        trt = trt_build.library()
        built = trt_build.build(trt, model, how, trt_build.open_log(trt), timings)
        data = built.plan + built.timings
        answer = {"plan": len(built.plan), "timings": len(built.timings), "unscaled": built.unscaled}
        answer["sha256"] = files.sha256_bytes(data)
    except tuple(KINDS.values()) as error:
        answer = {"error": _kind(error), "message": str(error)}
    try:
        files.give(order["back"], json.dumps(answer).encode("utf-8") + b"\n", data)
    except EnvironmentFault as error:
        print(error, file=sys.stderr)
        raise SystemExit(NO_ROOM) from None


def _kind(error: EdgekdError) -> str:
    return next(name for name, kind in KINDS.items() if isinstance(error, kind))
