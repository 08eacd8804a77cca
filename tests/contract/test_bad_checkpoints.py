"""Every bad checkpoint ends with its exit code and one message; none runs, none leaves anything behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bad_checkpoints import ROWS, Row, members, zipped
from bad_graphs import GRAPHS, good

from edgekd import checkpoints
from edgekd.checkpoints import worker
from edgekd.errors import EdgekdError

ALL = [*ROWS, *GRAPHS]


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Row, Path, Path]:
    row: Row = request.param
    folder = tmp_path / "in"
    folder.mkdir()
    return row, row.make(folder, tmp_path / "canary"), tmp_path


@pytest.mark.parametrize("made", ALL, ids=[row.name for row in ALL], indirect=True)
@pytest.mark.filterwarnings("ignore:.*quantize.*")  # torch's own types, deprecated there
def test_refused_with_one_message(made: tuple[Row, Path, Path]) -> None:
    row, path, folder = made
    before = sorted(folder.rglob("*"))
    with pytest.raises(EdgekdError) as caught:
        checkpoints.convert(path, folder / "out.safetensors")
    message = str(caught.value)
    assert caught.value.exit_code == row.exit_code, message
    assert row.word in message
    assert "bad" in message or str(path) in message
    assert "\n" not in message
    assert "Traceback" not in message
    assert "\x1b" not in message
    assert sorted(folder.rglob("*")) == before  # no canary, nothing half-written


@pytest.mark.parametrize("made", ALL, ids=[row.name for row in ALL], indirect=True)
@pytest.mark.filterwarnings("ignore:.*quantize.*")
def test_the_reader_alone_says_the_same(made: tuple[Row, Path, Path]) -> None:
    """Without the child: what is refused is refused by the reader, not by a crash of it."""
    row, path, folder = made
    if not path.name.isprintable() or not path.is_file() or not path.stat().st_size:
        return  # refused before anything is parsed
    header, _ = worker.answer("teacher", path.read_bytes(), path.suffix, 1 << 20)
    if "refused" in header:
        assert header["refused"] == {2: "usage", 3: "unsafe"}[row.exit_code]
        assert row.word in header["message"]
        assert "broke the reader" not in header["message"]
    else:
        assert row.exit_code == 2  # numbers that the parent judges
    assert not (folder / "canary").exists()


def test_the_table_is_long_enough() -> None:
    assert len({row.name for row in ALL}) == len(ALL) >= 120


def test_the_good_ones_behind_the_table_load(tmp_path: Path) -> None:
    (tmp_path / "good.pt").write_bytes(zipped(members()))
    (tmp_path / "good.onnx").write_bytes(good().SerializeToString())
    assert checkpoints.load(tmp_path / "good.pt").tensors["weight"].tolist() == [1, 2, 3, 4]
    graph = checkpoints.load(tmp_path / "good.onnx")
    assert graph.onnx == good().SerializeToString()
    assert graph.metadata["input"] == {"name": "input", "type": 1, "shape": [None, 3, 2, 2]}


@pytest.mark.parametrize("name", ["calls os.system", "truncated zip"])
def test_the_command_line_says_it_without_a_traceback(name: str, tmp_path: Path) -> None:
    row = next(row for row in ALL if row.name == name)
    path = row.make(tmp_path, tmp_path / "canary")
    command = [sys.executable, "-m", "edgekd", "convert", str(path), str(tmp_path / "out.safetensors")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == row.exit_code
    assert "Traceback" not in ended.stdout + ended.stderr
    assert row.word in (ended.stdout + ended.stderr).replace("\n", " ")
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "out.safetensors").exists()
