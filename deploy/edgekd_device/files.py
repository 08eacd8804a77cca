"""The only place that writes: temporary file, fsync, rename, fsync of the folder.

Every durable step passes a named fault point, so that a test can kill the process or fail the write exactly there:
``EDGEKD_FAULT=name:n:action`` acts on the n-th time the point is reached; action is kill, term, enospc or eio.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import signal
import stat
import tempfile
from pathlib import Path
from typing import IO, Any, Callable, Iterator, Union

from .errors import EnvironmentFault, UnsafeInput, UsageError

PathLike = Union[str, Path]
_reached: dict[str, int] = {}


def point(name: str) -> None:
    """Let the fault named in EDGEKD_FAULT happen here, if it is meant for this point."""
    wanted = os.environ.get("EDGEKD_FAULT")
    if not wanted:
        return
    target, nth, action = wanted.rsplit(":", 2)
    if target != name:
        return
    _reached[name] = _reached.get(name, 0) + 1
    if _reached[name] != int(nth):
        return
    if action in ("kill", "term"):
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGTERM)
    else:
        raise OSError(getattr(errno, action.upper()), os.strerror(getattr(errno, action.upper())), name)


def _sync_folder(folder: Path) -> None:
    handle = os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_with(path: PathLike, fill: Callable[[Path], None], name: str = "file", mode: int = 0o644) -> Path:
    """Let ``fill`` write a temporary file beside ``path``, then put it in place in one step.

    mode: the permissions of the file; until it is in place nobody else can read it.
    Raises EnvironmentFault when the disk is full or the folder cannot be written; ``path`` is then as it was before.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=str(path.parent), prefix="." + path.name + ".", suffix=".part")
        os.close(handle)
        point(name + ".before_write")
        fill(Path(temporary))
        handle = os.open(temporary, os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        os.chmod(temporary, mode)
        point(name + ".before_rename")
        os.replace(temporary, str(path))
        temporary = None
        point(name + ".after_rename")
        _sync_folder(path.parent)
    except OSError as error:
        raise EnvironmentFault(
            f"Could not write {path}: {error.strerror or error}. Free some space or choose another folder; "
            "what was there before is unchanged."
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    return path


def write_bytes(path: PathLike, data: bytes, name: str = "file", mode: int = 0o644) -> Path:
    """Write ``data`` to ``path`` atomically."""

    def fill(temporary: Path) -> None:
        with open(str(temporary), "wb") as stream:
            stream.write(data)

    return write_with(path, fill, name, mode)


def write_text(path: PathLike, text: str, name: str = "file") -> Path:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    return write_bytes(path, text.encode("utf-8"), name)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no NaN: the same value gives the same bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_bytes(value: Any) -> bytes:
    """Readable JSON with sorted keys, as ``write_json`` writes it."""
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode("utf-8")


def write_json(path: PathLike, value: Any, name: str = "file") -> Path:
    """Write ``value`` to ``path`` as readable JSON with sorted keys, atomically."""
    return write_bytes(path, json_bytes(value), name)


def _plain(path: PathLike) -> IO[bytes]:
    """A file open for reading; raises OSError for a pipe or a device, which would be waited for or read without end."""
    handle = os.open(str(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        folder = kind == stat.S_IFDIR
        code = errno.EISDIR if folder else errno.EINVAL
        raise OSError(code, os.strerror(code) if folder else "it is a pipe or a device, not a plain file", str(path))
    return open(handle, "rb")


def read_json(path: PathLike, limit: int = 64 << 20) -> Any:
    """Read JSON written by us or by a stranger: bounded size, no duplicate keys, no NaN.

    Raises UsageError naming the file and the reason.
    """

    def no_duplicates(pairs: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {key!r} appears twice")
            found[key] = value
        return found

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not a number")

    def finite(word: str) -> float:
        number = float(word)
        return number if math.isfinite(number) else refuse(word[:20])

    try:
        with _plain(path) as stream:
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"it is larger than {limit} bytes")
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=no_duplicates, parse_constant=refuse, parse_float=finite)
        if "\\ud" in text.lower():  # half a surrogate pair is no text: it could not be written again
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"Cannot read {path}: {reason}.") from error


def private_folder(path: PathLike) -> Path:
    """``path`` as a folder that no other user may enter; it is made where it is absent.

    Raises EnvironmentFault where it cannot be made, is a link, belongs to somebody else or is open to others.
    """
    path = Path(path)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(str(path))
    except OSError as error:
        raise EnvironmentFault(f"Cannot use {path} as a folder: {error.strerror or error}.") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise EnvironmentFault(
            f"{path} is a link, belongs to somebody else or is open to others, but native code is loaded from "
            f"there. Remove it, or make it your own: chmod 700 {path}"
        )
    return path


def read_own(path: PathLike, limit: int) -> bytes:
    """The bytes of a plain file of this user that others may not change; raises OSError for any other, ValueError past ``limit``."""
    handle = os.open(str(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(errno.EPERM, "it is not a plain file that belongs to this user alone", str(path))
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit} bytes")
    return data


@contextlib.contextmanager
def nameless(folder: PathLike) -> Iterator[IO[bytes]]:
    """A file without a name on the disk of ``folder``, for another process to `give` into; nothing of it ever stays behind."""
    try:
        stream = tempfile.TemporaryFile(dir=str(folder))
    except OSError as error:
        raise EnvironmentFault(f"Cannot write into {folder}: {error.strerror or error}.") from error
    with stream:
        yield stream


def give(handle: int, *parts: bytes) -> None:
    """Write ``parts`` into a file that another process opened, and that stays open; raises EnvironmentFault where it is full."""
    try:
        with open(handle, "wb", closefd=False) as stream:
            for part in parts:
                stream.write(part)
    except OSError as error:
        raise EnvironmentFault(f"Could not pass on what was built: {error.strerror or error}.") from error


def _opened_here(path: PathLike, flags: int, mode: str) -> IO[Any]:
    """``path``, made where it is absent, open for writing; raises UnsafeInput where it is not one file's only name.

    A folder may come from a stranger: what is written through a link or a second name would change a file elsewhere.
    """
    try:
        handle = os.open(str(path), flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a pipe that nobody reads
            raise _elsewhere(path) from error
        raise
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(handle)
        raise _elsewhere(path)
    return open(handle, mode)


def _elsewhere(path: PathLike) -> UnsafeInput:
    return UnsafeInput(
        f"{path} is a link or not a plain file, so writing it would change something elsewhere. Remove it."
    )


def append_line(path: PathLike, text: str, name: str = "journal") -> None:
    """Append one line and flush it to the disk; a torn last line is the reader's to ignore.

    Raises UnsafeInput where ``path`` is a link: the line would go elsewhere.
    """
    try:
        point(name + ".before_append")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with _opened_here(path, os.O_WRONLY | os.O_APPEND, "ab") as stream:
            stream.write(text.encode("utf-8") + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise EnvironmentFault(f"Could not write {path}: {error.strerror or error}.") from error


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: PathLike) -> str:
    """Hexadecimal SHA-256 of the file at ``path``; raises OSError where it is none."""
    digest = hashlib.sha256()
    with _plain(path) as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def remove_leftovers(folder: PathLike, deep: bool = True) -> None:
    """Delete the temporary files of a killed run; call it only while holding the folder's lock.

    deep: in the folders below as well.
    """
    for leftover in Path(folder).glob("**/.*.part" if deep else ".*.part"):
        with contextlib.suppress(OSError):
            leftover.unlink()


@contextlib.contextmanager
def lock(folder: PathLike) -> Iterator[None]:
    """Hold ``folder`` for this process; raises EnvironmentFault naming the process that holds it already.

    UnsafeInput where its lock is a link, through which another file would be emptied.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = _opened_here(folder / ".lock", os.O_RDWR | os.O_APPEND, "a+")
    except OSError as error:
        raise EnvironmentFault(f"Cannot use {folder} as a folder: {error.strerror or error}.") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise EnvironmentFault(
                f"{folder} is in use by process {holder}. Wait for it, or choose another folder with --out."
            ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield
