"""Progress on a terminal: bars with the time left; none in a pipe."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from edgekd.cli import progress, screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_in_a_pipe_or_when_asked_to_be_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    with progress.progress() as bars:
        assert bars is None
    monkeypatch.setattr("sys.stderr", Terminal())
    with progress.progress(quiet=True) as bars:
        assert bars is None


def test_bars_fit_a_terminal_of_80(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")  # no control characters
    with progress.progress() as bars:
        assert bars is not None
        bars("robustkd", 30, 1000, {"epoch": 3, "loss": 0.51234, "lr": 0.1, "images_per_second": 1234.5})
    (line,) = [line for line in terminal.getvalue().splitlines() if "robustkd" in line]
    assert len(line) <= 80
    assert "30/1000" in line
    assert "epoch 3 loss 0.512" in line
    assert "…" not in line


def test_brief_work_leaves_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    with progress.progress() as bars:
        assert bars is not None
        bars("brief", 0, 2, {})
        bars("brief", 2, 2, {})
        bars("[red]odd[/]", 0, 2, {})  # names are no markup
    assert "brief" not in terminal.getvalue()
    assert "[red]odd[/]" in terminal.getvalue()
    assert Path(progress.__file__).name == "progress.py"


def test_json_on_standard_output_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    said = {"warning": "\x1b[2J\x9b31m\u202eexe.png", "class": "Größe"}
    screen.print_json(said)
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == said
    assert out.count("\n") == 1
