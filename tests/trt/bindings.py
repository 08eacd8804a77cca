"""Runs a script with NVIDIA's own bindings, on stub libraries compiled here: real classes, enums and signatures, no GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fetch
import pytest

HERE = Path(__file__).parent
DEPLOY = HERE.parents[1] / "deploy"
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin", "nvparsers")


def stubs(folder: Path, major: str, only: str = "") -> Path:
    """A folder with the stub libraries of one major version; only: with that one alone, without what the others define."""
    for name in [only] if only else LIBRARIES:
        soname = f"lib{name}.so.{major}"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{soname}", "-DPLUGIN_ONLY" if only else "-DPARSERS"]
        compiler = shutil.which("gcc") or pytest.skip("no C compiler here")
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler, *options, "-o", str(folder / soname), str(HERE / "stubs.c")], check=True)
    return folder


def wheel(version: str) -> Path:
    """The folder of a fetched wheel; where it is absent the test is skipped, and fails with EDGEKD_REQUIRE_TRT=1."""
    folder = fetch.FOLDER / version
    if not folder.is_dir():
        absent = pytest.fail if os.environ.get("EDGEKD_REQUIRE_TRT") == "1" else pytest.skip
        absent(f"python tests/trt/fetch.py brings {version}")
    return folder


def run(folders: list[Path], libraries: Path, script: Path, *words: str) -> str:
    """What ``script`` prints, run with ``folders`` in front of the path."""
    paths = os.pathsep.join(map(str, [*folders, DEPLOY]))
    ended = subprocess.run(
        [sys.executable, str(script), *words],
        env={**os.environ, "PYTHONPATH": paths, "LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def alias(folder: Path) -> Path:
    """A module `tensorrt` in ``folder``, which the libraries' own wheel brings otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    (folder / "tensorrt.py").write_text(text)
    return folder
