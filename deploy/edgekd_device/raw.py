"""Raw times beside a report: every single latency, so that each figure can be computed again."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Mapping

import numpy as np

from . import files


def beside(report: files.PathLike) -> Path:
    """Where the raw times of the report at ``report`` go: report.json has report.times.npz."""
    return Path(report).with_suffix(".times.npz")


def write(path: files.PathLike, times: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write ``times``, nanoseconds [n] per timed stretch, as float32 microseconds, compressed, atomically.

    Returns the file's name and SHA-256. Raises EnvironmentFault where it cannot be written.
    """

    def fill(temporary: Path) -> None:
        # one array at a time: ten minutes of short inferences are tens of megabytes each
        with zipfile.ZipFile(str(temporary), "w", zipfile.ZIP_DEFLATED) as archive:
            for name, found in times.items():
                with archive.open(name + ".npy", "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, (found / 1e3).astype(np.float32), allow_pickle=False)

    written = files.write_with(path, fill, "device-times")
    return {"file": written.name, "sha256": files.sha256_file(written)}
