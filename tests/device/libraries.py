"""Shared libraries that the tests compile, and the fake CUDA runtime among them."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FLAGS = ("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror")


def compiled(source: Path, library: Path, *options: str) -> Path:
    """The shared library made of one C file; skips the test where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    library.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([compiler, *FLAGS, *options, "-o", str(library), str(source)], check=True)
    return library


class FakeCuda:
    """The questions that a test may ask the fake runtime (fake_cudart.c)."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._library = ctypes.CDLL(self.path)
        self.reset()

    def reset(self) -> None:
        self._library.fake_reset()

    @property
    def live(self) -> int:
        """Objects that were handed out and not given back."""
        return int(self._library.fake_live())

    def forget(self) -> None:
        """Count nothing of what is left, so that one test's leak is not the next one's."""
        self._library.fake_forget()

    def calls(self, name: str) -> int:
        return int(self._library.fake_calls(name.encode()))

    def fail(self, name: str, nth: int = 1, code: int = 2) -> None:
        """Let the ``nth`` call of a function from now on fail."""
        self._library.fake_fail(name.encode(), nth, code)

    def devices(self, count: int) -> None:
        self._library.fake_devices(count)
