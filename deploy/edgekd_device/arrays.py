"""Reading ``.npz`` files written by us or by a stranger: bounded, checked member by member, never a pickle."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from .errors import UnsafeInput, UsageError

LIMIT_BYTES = 32 << 30
_HEADER_LIMIT = 64 << 10
_MEMBER_LIMIT = 1000
# Python unpacks the others (bzip2, lzma, zstd) a whole block at a time, whatever is asked for: gigabytes from a few bytes.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_NO_HEADER = (
    ValueError,
    TypeError,
    OverflowError,
    SyntaxError,
    RecursionError,
    MemoryError,
    struct.error,
    tokenize.TokenError,
)
_DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)


def read_npz(path: str | Path, limit_bytes: int = LIMIT_BYTES) -> dict[str, Any]:
    """Every array of the ``.npz`` at ``path``, by name.

    Every header is checked before anything is allocated: plain dtypes only, at most ``limit_bytes`` in all.
    Raises UnsafeInput for object arrays (they are pickles), UsageError naming the file and the reason for the rest.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError("it is not a file")
        with zipfile.ZipFile(str(path)) as archive:
            found = {}
            for name, member in _members(archive).items():
                with archive.open(member) as stream:
                    found[name] = _read(stream, name, limit_bytes)
                limit_bytes -= found[name].nbytes
            return found
    except _DAMAGE as error:
        raise UsageError(f"{path} is not a complete .npz file ({error}). Write it again.") from error
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    except UnsafeInput as error:
        raise UnsafeInput(f"Refused {path}: {error}") from error
    except ValueError as error:
        raise UsageError(f"Cannot read {path}: {error}.") from error


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Array name -> member; refuses archives that say two things about one name."""
    entries = archive.infolist()
    if len(entries) > _MEMBER_LIMIT:
        raise ValueError(f"it has {len(entries)} members, more than {_MEMBER_LIMIT}")
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename[:-4] if entry.filename.endswith(".npy") else entry.filename
        if name in found:
            raise ValueError(f"the array {name!r} appears twice")
        if entry.compress_type not in _METHODS:
            raise ValueError(
                f"the array {name!r} is packed in a way that numpy does not write; save it with numpy.savez"
            )
        found[name] = entry
    return found


def _read(stream: IO[bytes], name: str, limit_bytes: int) -> Any:
    shape, fortran, dtype = _header(stream, name)
    size = math.prod(shape) * dtype.itemsize
    if size > limit_bytes:
        raise ValueError(f"the array {name!r} unpacks to {size} bytes, and only {limit_bytes} are allowed")
    try:
        data = np.empty(math.prod(shape), dtype)
    except MemoryError:
        raise ValueError(f"the array {name!r} unpacks to {size} bytes, more than this machine has") from None
    view, filled = data.data.cast("B") if size else memoryview(b""), 0
    while filled < size:
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise ValueError(f"the array {name!r} ends after {filled} of {size} bytes")
        filled += count
    if stream.read(1):  # also lets the archive compare its checksum
        raise ValueError(f"the array {name!r} holds more bytes than its header says")
    return np.asarray(data.reshape(shape, order="F" if fortran else "C"), order="C")


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, Any]:
    """Shape, order and dtype of a ``.npy`` stream, which is left at the first byte of data."""
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError("format version {}.{}".format(*version))
        width, code = (2, "<H") if version == (1, 0) else (4, "<I")
        prefix = stream.read(width)
        length = struct.unpack(code, prefix)[0]
        if length > _HEADER_LIMIT:
            raise ValueError(f"a header of {length} bytes")
        header = io.BytesIO(prefix + stream.read(length))
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(header)
    except _NO_HEADER as error:
        raise ValueError(f"{name!r} is damaged or not an array ({error})") from error
    if dtype.hasobject:
        raise UnsafeInput(
            f"the array {name!r} holds Python objects, which only a pickle can carry. "
            "Save it again with a plain dtype, such as uint8 or int64."
        )
    # numbers, truth values and text; an item of no width would take memory where its size says none
    if dtype.kind not in "biufcSU" or not dtype.itemsize:
        raise ValueError(f"{name!r} is of the type {dtype}, which is not plain numbers or text")
    if any(extent < 0 for extent in shape):
        raise ValueError(f"{name!r} has the shape {shape}")
    return shape, fortran, dtype
