"""A strict reader of the zip files that torch.save writes: every byte belongs to exactly one known thing.

Scanners and loaders disagree about zips with two directories, gaps, or local headers that differ from the central
directory, and that is how a scanner is fooled. Here the directory and a walk over the local headers must agree and
cover the file from its first byte to its last.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from ..errors import UnsafeInput, UsageError
from . import limits
from .wording import DAMAGED, printable

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR, _UTF8 = 0x0008, 0x0800
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True)
class Member:
    """One entry of the central directory."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    size: int
    offset: int


def trick(what: str) -> UnsafeInput:
    """The refusal of a zip that two readers would understand in two ways."""
    return UnsafeInput(
        f"Its zip container is not as torch.save writes it: {what}. Such files can show a scanner one thing "
        "and a loader another. If you trust it, load it and save its state_dict() again."
    )


def directory(data: bytes) -> list[Member]:
    """The central directory in file order; raises UsageError when it is missing, UnsafeInput when it is doubtful."""
    start, size, count, end = _end_record(data)
    if count > limits.MEMBERS:
        raise trick(f"it has {count} members")
    if start + size != end:
        raise trick("there are bytes between its directory and its end record, or a second directory")
    members, position = [], start
    for _ in range(count):
        if position + _CENTRAL.size > end:
            raise trick("its directory is shorter than it says")
        fields = _CENTRAL.unpack_from(data, position)
        if fields[0] != b"PK\x01\x02":
            raise trick("its directory holds something else")
        stop = position + _CENTRAL.size + sum(fields[10:13])
        if stop > end:
            raise trick("its directory is shorter than it says")
        members.append(_member(data, position + _CENTRAL.size, fields))
        position = stop
    if position != end:
        raise trick("its directory is longer than it says")
    return sorted(members, key=lambda member: member.offset)


def _end_record(data: bytes) -> tuple[int, int, int, int]:
    """Offset, size and number of entries of the directory, and where it must end."""
    end = len(data) - _END.size
    if end < 0 or data[end : end + 4] != b"PK\x05\x06":
        if data.rfind(b"PK\x05\x06") >= 0:
            raise trick("bytes follow its end record")
        raise UsageError(f"Its zip container has no end record. {DAMAGED}")
    _, disk, first, here, count, size, start, comment = _END.unpack_from(data, end)
    if disk or first or here != count or comment:
        raise trick("it has a comment or several parts")
    locator = end - _END64_LOCATOR.size
    if locator < _END64.size or data[locator : locator + 4] != b"PK\x06\x07":
        if _FULL32 in (size, start) or count == _FULL16:
            raise trick("its 64-bit end record is missing")
        return start, size, count, end
    _, disk, at, disks = _END64_LOCATOR.unpack_from(data, locator)
    if disk or disks != 1 or at != locator - _END64.size or data[at : at + 4] != b"PK\x06\x06":
        raise trick("its 64-bit end record is not where it says")
    _, length, _, _, disk, first, here64, count64, size64, start64 = _END64.unpack_from(data, at)
    if length != _END64.size - 12 or disk or first or here64 != count64:
        raise trick("its 64-bit end record is malformed")
    for old, new, full in ((count, count64, _FULL16), (size, size64, _FULL32), (start, start64, _FULL32)):
        if old not in (new, full):
            raise trick("its two end records differ")
    return start64, size64, count64, at


def _member(data: bytes, at: int, fields: tuple[int, ...]) -> Member:
    _, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, _, disk, _, _, offset = fields
    raw = data[at : at + name_length]
    name = checked_name(raw)
    if disk:
        raise trick(f"{printable(name)!r} lies on another disk")
    if flags & ~(_DESCRIPTOR | _UTF8):
        raise trick(f"{printable(name)!r} is encrypted or has unknown flags")
    extra = data[at + name_length : at + name_length + extra_length]
    size, packed, offset = _wide(extra, [size, packed, offset], name)
    if size != packed and method == 0:
        raise trick(f"{printable(name)!r} has two sizes")
    return Member(name, raw, flags, method, crc, packed, offset)


def checked_name(raw: bytes) -> str:
    """The name of a member, inside the container's one root; raises UnsafeInput for one that reaches outside."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise trick("a member's name is not text") from None
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or any(c in name for c in "\\\0:") or "" in parts:
        raise trick(f"a member is called {printable(name)!r}, a path that reaches outside")
    return name


def _wide(extra: bytes, numbers: list[int], name: str) -> list[int]:
    """Replace the numbers that do not fit 32 bits by those of the 64-bit extra field."""
    position = 0
    while position + 4 <= len(extra) and _FULL32 in numbers:
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            wanted = [index for index, number in enumerate(numbers) if number == _FULL32]
            if length < 8 * len(wanted) or position + 4 + length > len(extra):
                raise trick(f"{printable(name)!r} has a malformed 64-bit field")
            for order, index in enumerate(wanted):
                (numbers[index],) = struct.unpack_from("<Q", extra, position + 4 + 8 * order)
            return numbers
        position += 4 + length
    if _FULL32 in numbers:
        raise trick(f"{printable(name)!r} has no 64-bit field")
    return numbers


def members(data: bytes, entries: list[Member]) -> dict[str, memoryview]:
    """The content of every member by name, after the local headers were found to say the same as the directory.

    Raises UnsafeInput for compressed members, doubles, gaps, overlaps, differences and wrong checksums.
    """
    found: dict[str, memoryview] = {}
    position = 0
    for entry in entries:
        if entry.name in found:
            raise trick(f"it has two members called {printable(entry.name)!r}")
        if entry.method:
            raise trick(f"{printable(entry.name)!r} is compressed")
        if entry.offset != position:
            raise trick(f"{printable(entry.name)!r} does not follow the member before it: bytes are hidden there")
        start = _local_header(data, entry)
        content = memoryview(data)[start : start + entry.size]
        position = _after(data, entry, start + entry.size)
        if zlib.crc32(content) != entry.crc:
            raise trick(
                f"the checksum of {printable(entry.name)!r} is wrong (a damaged download looks the same: fetch the file "
                "again and compare its published hash)"
            )
        found[entry.name] = content
    if position != _end_record(data)[0]:
        raise trick("bytes are hidden before its directory")
    return found


def _local_header(data: bytes, entry: Member) -> int:
    """Where the member's bytes start."""
    if entry.offset + _LOCAL.size > len(data):
        raise trick(f"{printable(entry.name)!r} starts outside the file")
    fields = _LOCAL.unpack_from(data, entry.offset)
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
    start: int = entry.offset + _LOCAL.size + name_length + extra_length
    name = data[entry.offset + _LOCAL.size : entry.offset + _LOCAL.size + name_length]
    if signature != b"PK\x03\x04" or name != entry.raw_name or (flags, method) != (entry.flags, entry.method):
        raise trick(f"the header of {printable(entry.name)!r} differs from the directory")
    said = (crc, packed, size)
    extra = data[entry.offset + _LOCAL.size + name_length : start]
    if entry.flags & _DESCRIPTOR and not any(said):
        pass  # a descriptor follows the bytes and says it
    elif (crc, *_wide(extra, [size, packed], entry.name)) != (entry.crc, entry.size, entry.size):
        raise trick(f"the header of {printable(entry.name)!r} differs from the directory")
    if start + entry.size > len(data):
        raise trick(f"{printable(entry.name)!r} reaches outside the file")
    return start


def _after(data: bytes, entry: Member, position: int) -> int:
    """The position behind the descriptor that follows a member's bytes, if its flag says so."""
    if not entry.flags & _DESCRIPTOR:
        return position
    for layout in ("<4sLLL", "<4sLQQ"):
        length = struct.calcsize(layout)
        if position + length <= len(data):
            fields = struct.unpack_from(layout, data, position)
            if fields == (b"PK\x07\x08", entry.crc, entry.size, entry.size):
                return position + length
    raise trick(f"the descriptor behind {printable(entry.name)!r} differs from the directory")
