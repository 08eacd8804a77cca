"""Atomic writes, locks and hashes; their home is the device package, which must stand alone."""

from edgekd_device.files import (
    append_line,
    canonical_json,
    lock,
    point,
    read_json,
    remove_leftovers,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
    write_with,
)

__all__ = [
    "append_line",
    "canonical_json",
    "lock",
    "point",
    "read_json",
    "remove_leftovers",
    "sha256_bytes",
    "sha256_file",
    "write_bytes",
    "write_json",
    "write_text",
    "write_with",
]
