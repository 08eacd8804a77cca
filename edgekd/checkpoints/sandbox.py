"""Runs the reader in a child process and believes nothing but the bounded bytes that come back."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..errors import EnvironmentFault, UnsafeInput, UsageError
from .limits import Limits
from .wording import DAMAGED, printable

_HEADER_BYTES = 8 << 20
# -I and -S: no user code at start, no site; the path is given, since an editable install is found through site alone
BOOT = """import sys
sys.path.extend({roots!r})
try:
    from edgekd.checkpoints.worker import serve
except BaseException as error:
    print("E", repr(error), flush=True)
    raise SystemExit(1)
serve()
"""


def roots() -> list[str]:
    """The folders that the child may import from: where edgekd lies, and the installed packages."""
    found = []
    for name in ("edgekd", "edgekd_device"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found.append(str(Path(spec.origin).parents[1]))
    found += [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    return list(dict.fromkeys(found))


def run(
    job: str, data: bytes, name: str, *, ending: str = "", limits: Limits | None = None, boot: str | None = None
) -> tuple[dict[str, Any], bytes]:
    """The child's header and numbers for ``data``, called ``name`` in messages.

    Raises what the child found (UnsafeInput, UsageError), UnsafeInput when the child was killed, ran out of time or
    memory or answered nonsense, EnvironmentFault when no child could be started.
    """
    limits = limits or Limits()
    seconds, budget = limits.seconds_for(len(data)), limits.answer_for(len(data))
    code = BOOT.format(roots=roots()) if boot is None else boot
    arguments = [job, ending, str(budget), str(seconds), str(limits.memory_for(len(data)))]
    try:
        with tempfile.TemporaryDirectory(prefix="edgekd-") as empty:
            reply, status = _talk(
                [sys.executable, "-I", "-S", "-B", "-c", code, *arguments], data, empty, seconds, budget
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentFault(
            f"Could not start the process that reads {name}: {error}. Files of unknown origin are never read "
            "without it."
        ) from error
    if reply is None:
        raise UnsafeInput(
            f"{name}: reading it did not finish within {seconds:.0f} s or a reasonable size, so it is refused."
        )
    if reply[:1] != b"R":
        raise EnvironmentFault(
            f"The process that reads {name} did not start ({printable(reply[1:200].decode('utf-8', 'replace'), 200)}, "
            f"status {status}). Check the installation with `edgekd doctor`."
        )
    if status == -signal.SIGXCPU:
        raise UnsafeInput(f"{name}: reading it took more than {seconds:.0f} s of processor time, so it is refused.")
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        raise UnsafeInput(f"{name}: it crashed the parser ({how}), as malicious files do, so it is refused.")
    return _unpacked(reply, name)


def _unpacked(reply: bytes, name: str) -> tuple[dict[str, Any], bytes]:
    """Header and numbers of an answer; raises the error that it carries."""
    nonsense = UnsafeInput(f"{name}: it made the parser answer nonsense, so it is refused. Use another file.")
    if len(reply) < 9:
        raise nonsense
    (length,) = struct.unpack_from("<Q", reply, 1)
    if length > min(_HEADER_BYTES, len(reply) - 9):
        raise nonsense
    try:
        header = json.loads(reply[9 : 9 + length])
    except (ValueError, RecursionError):
        raise nonsense from None
    if not isinstance(header, dict):
        raise nonsense
    if "refused" in header:
        kind = UnsafeInput if header["refused"] == "unsafe" else UsageError
        raise kind(f"{name}: {printable(header.get('message') or DAMAGED, 1500)}")
    return header, reply[9 + length :]


def _talk(command: list[str], data: bytes, folder: str, seconds: float, budget: int) -> tuple[bytes | None, int]:
    """Give ``data`` to the child and collect its answer; None when it takes too long or says too much."""
    # an interpreter that needs its library path (module systems, some CI images) does not start without it
    environment = {key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ}
    environment.update(LC_ALL="C.UTF-8", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        close_fds=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + seconds
        reply = _exchange(child, memoryview(data), deadline, budget + _HEADER_BYTES + 9)
        if reply is None:
            return None, 0
        return reply, child.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None, 0
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for stream in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]


def _exchange(child: subprocess.Popen[bytes], waiting: memoryview, deadline: float, most: int) -> bytes | None:
    """Write and read until the child closes its output; None past the deadline or past ``most`` bytes."""
    reply = bytearray()
    with selectors.DefaultSelector() as selector:
        os.set_blocking(child.stdin.fileno(), False)  # type: ignore[union-attr]
        selector.register(child.stdin, selectors.EVENT_WRITE)  # type: ignore[arg-type]
        selector.register(child.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or len(reply) > most:
                return None
            for key, _ in selector.select(left):
                if key.fileobj is child.stdout:
                    block = os.read(key.fd, 1 << 20)
                    reply += block
                    if not block:
                        return bytes(reply)
                    continue
                try:
                    waiting = waiting[os.write(key.fd, waiting[: 1 << 20]) :] if waiting else waiting
                except BrokenPipeError:
                    waiting = waiting[:0]  # the child ended early; its answer says why
                if not waiting:
                    selector.unregister(child.stdin)  # type: ignore[arg-type]
                    child.stdin.close()  # type: ignore[union-attr]


def protections() -> tuple[str, ...]:
    """The layers that hold around the reader on this machine, for `edgekd doctor`."""
    header, _ = run("nothing", b"", "the self-test")
    return tuple(printable(text) for text in header["protections"])
