"""Versions, hardware and the source commit, without host names, user names or paths."""

from __future__ import annotations

import functools
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgekd_device import environment

PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "safetensors")


def describe() -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    found: dict[str, Any] = dict(environment.collect())
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


@functools.lru_cache(maxsize=1)
def commit() -> str:
    """The source commit when run from a checkout, with ``-dirty`` where files differ; else an empty string."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        head = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip()
