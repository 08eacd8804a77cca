"""Command lines, run in this process or one of their own, and how they ended."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any


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
