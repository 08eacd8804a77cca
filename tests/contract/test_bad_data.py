"""Every bad input ends with its exit code and one message that says what was found; no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_data import BAD_DATA, BadInput
from bad_triggers import BAD_TRIGGERS, NUM_CLASSES, SHAPE

from edgekd import data, triggers
from edgekd.errors import EdgekdError


def _check(error: EdgekdError, row: BadInput, folder: Path, before: set[Path]) -> None:
    message = str(error)
    assert error.exit_code == row.exit_code, message
    assert row.word in message
    assert "\n" not in message
    assert "Traceback" not in message
    assert set(folder.rglob("*")) == before


@pytest.mark.parametrize("row", BAD_DATA, ids=lambda row: row.name)
def test_bad_data(row: BadInput, tmp_path: Path) -> None:
    path = row.make(tmp_path)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(EdgekdError) as caught:
        data.load(path, **row.options)
    _check(caught.value, row, tmp_path, before)


@pytest.mark.parametrize("row", BAD_TRIGGERS, ids=lambda row: row.name)
def test_bad_triggers(row: BadInput, tmp_path: Path) -> None:
    path = row.make(tmp_path)
    before = set(tmp_path.rglob("*"))
    options = {"shape": SHAPE, "num_classes": NUM_CLASSES, "target_label": 1, **row.options}
    with pytest.raises(EdgekdError) as caught:
        triggers.load(path, **options)
    _check(caught.value, row, tmp_path, before)


def test_the_tables_hold_distinct_cases() -> None:
    for table in (BAD_DATA, BAD_TRIGGERS):
        assert len({row.name for row in table}) == len(table) >= 14
