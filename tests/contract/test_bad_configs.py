"""Every bad setting ends with exit code 2 and one message that names it; no traceback, nothing written."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
from bad_configs import ROWS, Row, inputs

from edgekd.cli import run


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_configs(row: Row, tmp_path: Path) -> None:
    words = [*inputs(tmp_path), *row.make(tmp_path)]
    before = {path: path.stat().st_size for path in tmp_path.rglob("*")}
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    message = err.getvalue()
    assert code == row.exit_code, message
    assert row.word in message
    assert message.startswith("edgekd: ")
    assert message.count("\n") == 1
    assert len(message) < 600
    assert "Traceback" not in message
    assert "\x1b" not in message
    assert not out.getvalue()
    after = {path: path.stat().st_size for path in tmp_path.rglob("*") if path.name != ".lock"}
    assert after == before


def test_the_table_holds_distinct_cases() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 50
