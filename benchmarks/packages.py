"""Packages that one table compares with, kept out of the project's own environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.grid import HERE
from edgekd.errors import EnvironmentFault


def aside(name: str, *packages: str, options: tuple[str, ...] = ()) -> Path:
    """The folder under .cache/ that holds ``packages`` without what they depend on; fetched once, with pip's ``options``.

    Raises EnvironmentFault where they cannot be had.
    """
    folder = HERE.parent / ".cache" / name
    ready = folder / "ready"  # a folder alone may be what a killed installation left
    if not ready.exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", *options]
        if subprocess.run([*pip, "--target", str(folder), *packages], check=False).returncode:
            raise EnvironmentFault(f"{', '.join(packages)}: not to be installed here.")
        ready.touch()
    return folder
