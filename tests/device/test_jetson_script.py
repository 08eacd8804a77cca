"""deploy/jetson/measure.sh: what it runs, in which order, and that the clocks are free again however it ends."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "jetson" / "measure.sh"
# what each command writes down; the clocks' own says where it fails
SUDO = """#!/bin/sh
echo "$1" "${2:-pin}" >> "$CALLS"
[ "$FAILS" != "${2:-pin}" ] || exit 1
[ "${2:-}" != --store ] || { [ ! -e "$3" ] && echo kept > "$3"; }
[ "${2:-}" != --restore ] || [ "$(cat "$3")" = kept ]
"""
PYTHON = """#!/bin/sh
shift
echo "$@" >> "$CALLS"
if [ "$1" = "$STOPPED" ]; then kill -TERM $PPID; fi
[ "$1" = build ] && exit "$BUILT" || exit "$RAN"
"""


def measured(folder: Path, *given: str, board: bool = True, **said: str) -> tuple[int, list[str]]:
    """The script's exit code and the commands that it ran, beside commands that only write down what they were given."""
    commands = folder / "bin"
    commands.mkdir()
    for name in ("mktemp", "rm", "cat", "sh"):  # nothing of this machine's own but these
        (commands / name).symlink_to(str(shutil.which(name)))
    for name, text in {"sudo": SUDO, "python3": PYTHON, **({"jetson_clocks": "#!/bin/sh\n"} if board else {})}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    calls = folder / "calls"
    calls.touch()
    (folder / "kept").mkdir()
    around = {"PATH": str(commands), "CALLS": str(calls), "TMPDIR": str(folder / "kept")}
    states = {"FAILS": "", "BUILT": "0", "RAN": "0", "STOPPED": "", **said}
    done = subprocess.run(
        [commands / "sh", SCRIPT, *given], env={**around, **states}, cwd=folder, check=False, capture_output=True
    )
    assert os.listdir(folder / "kept") == []
    return done.returncode, calls.read_text().splitlines()


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    (tmp_path / "a bundle").mkdir()
    (tmp_path / "a bundle" / "edgekd-device.pyz").touch()
    return "a bundle"


STORE, PIN, RESTORE = (f"jetson_clocks {what}" for what in ("--store", "pin", "--restore"))
BUILD, RUN = "build a bundle", "run a bundle --level standard"


@pytest.mark.parametrize(
    ("said", "code", "calls"),
    [
        ({}, 0, [STORE, PIN, BUILD, RUN, RESTORE]),
        ({"RAN": "1"}, 1, [STORE, PIN, BUILD, RUN, RESTORE]),
        ({"BUILT": "4"}, 4, [STORE, PIN, BUILD, RESTORE]),
        ({"FAILS": "--store"}, 4, [STORE]),
        ({"FAILS": "pin"}, 4, [STORE, PIN, RESTORE]),
        ({"FAILS": "--restore", "RAN": "1"}, 1, [STORE, PIN, BUILD, RUN, RESTORE]),
        ({"STOPPED": "run"}, 143, [STORE, PIN, BUILD, RUN, RESTORE]),
    ],
)
def test_clocks_are_given_back_however_it_ends(said, code, calls, bundle, tmp_path):
    assert measured(tmp_path, bundle, **said) == (code, calls)


def test_options_reach_the_run(bundle, tmp_path):
    _, calls = measured(tmp_path, bundle, "--level", "official", "--cuda-graph")
    assert f"{RUN} --level official --cuda-graph" in calls


@pytest.mark.parametrize(
    ("given", "board", "code"), [((), True, 2), (("elsewhere",), True, 2), (("a bundle",), False, 4)]
)
def test_nothing_is_touched_without_a_bundle_or_a_board(given, board, code, bundle, tmp_path):
    assert measured(tmp_path, *given, board=board) == (code, [])
