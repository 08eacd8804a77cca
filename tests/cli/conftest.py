"""The tiny world, made once; one finished run of it, which tests look at and copy."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import world as worlds


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def message(self) -> str:
        """What a user's mistake was answered with: one line, no traceback."""
        assert "Traceback" not in self.out + self.err
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("edgekd: ")
        return lines[0]


def call(*words: object) -> Ended:
    """A command line in this process."""
    from edgekd.cli import run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(word) for word in words])
    return Ended(code, out.getvalue(), err.getvalue())


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "edgekd", *map(str, words)]


def spawn(*words: object, **environment: str) -> Ended:
    """The same in a process of its own."""
    ended = subprocess.run(
        command(*words), capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture(scope="session", autouse=True)
def _short_measurements() -> Iterator[None]:
    """Latency is measured for some hundredths of a second."""
    from edgekd_device import latency

    before = latency.LEVELS["smoke"]
    latency.LEVELS["smoke"] = dataclasses.replace(before, seconds=0.05, warm_seconds=0.02, window=0.02)
    yield
    latency.LEVELS["smoke"] = before


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    return worlds.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def finished(world: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A finished run's folder, not to be changed, and how the command ended."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    ended = call(*world.words("--max-acc-drop", "99", out=folder))
    assert ended.code == 0, ended.err
    return folder, ended


@pytest.fixture
def run_copy(finished: tuple[Path, Ended], tmp_path: Path) -> Path:
    """The finished run in a folder of the test's own."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture
def short(world: worlds.World) -> Callable[..., list[str]]:
    """A command line of the shortest whole run: no trigger, no canaries, no bench."""

    def words(*more: object, teacher: Path | None = None, data: Path | None = None) -> list[str]:
        head = ["compress", str(teacher or world.teacher), "--data", str(data or world.train), "--quiet"]
        tail = ["--bench", "none", "-o", "audit.canaries=false"]
        for setting in worlds.SHORT:
            tail += ["-o", setting]
        return [*head, *tail, *map(str, more)]

    return words
