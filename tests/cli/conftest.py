"""The tiny world, made once; one finished run of it, which tests look at and copy."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import world as worlds
from endings import Ended, call


@contextlib.contextmanager
def short_measurements() -> Iterator[None]:
    """Latency is measured for some hundredths of a second."""
    from edgekd_device import latency

    before = latency.LEVELS["smoke"]
    latency.LEVELS["smoke"] = dataclasses.replace(before, seconds=0.05, warm_seconds=0.02, window=0.02)
    try:
        yield
    finally:
        latency.LEVELS["smoke"] = before


@pytest.fixture(scope="module", autouse=True)
def _short_measurements() -> Iterator[None]:
    """In this folder only: other tests share the process."""
    with short_measurements():
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    return worlds.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def finished(world: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A finished run's folder, not to be changed, and how the command ended."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    with short_measurements():  # a session's fixture is made before a module's
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
