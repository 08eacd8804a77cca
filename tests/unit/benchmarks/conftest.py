from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a script of this folder as a user would; results and cache go to the test's own folder."""

    def begin(script: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "deploy")])
        return subprocess.Popen(
            [sys.executable, str(script), "--folder", str(tmp_path), *arguments],
            env={**os.environ, "PYTHONPATH": paths, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return begin
