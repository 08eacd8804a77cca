"""Atomic writes, locks and hashes; their home is the device package, which must stand alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekd_device.files import (
    append_line,
    canonical_json,
    json_bytes,
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

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "append_line",
    "canonical_json",
    "json_bytes",
    "lock",
    "point",
    "read_json",
    "remove_leftovers",
    "sha256_bytes",
    "sha256_file",
    "write_bytes",
    "write_json",
    "write_npz",
    "write_text",
    "write_with",
]


def write_npz(path: str | Path, name: str = "arrays", **arrays: np.ndarray) -> Path:
    """Write named arrays as one .npz, not compressed; ``name`` is that of the fault points, as for ``write_with``."""
    import numpy as np

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as stream:  # numpy adds .npz to a name that has none
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    return write_with(path, fill, name)
