"""deploy/jetson/measure.sh: what it runs, in which order, and that the clocks are free again however it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "jetson" / "measure.sh"
# Beside them nothing of this machine's own but a few plain tools; each writes down what it was asked for.
COMMANDS = {
    "sudo": '#!/bin/sh\n[ "$1" = -k ] && echo "sudo -k" >> "$CALLS" && exit 0\n[ "$FAILS" != sudo ] || exit 1\nexec "$@"\n',
    "jetson_clocks": """#!/bin/sh
echo "clocks ${1:-pin}" >> "$CALLS"
[ "$FAILS" != "${1:-pin}" ] || exit 1
[ -n "${1:-}" ] || [ -z "$SLOW_PIN" ] || sleep 1
[ "${1:-}" != --store ] || { [ ! -e "$2" ] && echo kept > "$2"; }
[ "${1:-}" != --restore ] || [ "$(cat "$2")" = kept ]
""",
    "python3": """#!/bin/sh
shift
echo "$@" >> "$CALLS"
[ -z "$SLOW" ] || exec sleep 60
exit "$RAN"
""",
}
TOOLS = ("mktemp", "mkfifo", "rm", "cat", "sh", "sleep")
STORE, PIN, RESTORE, DROP = "clocks --store", "clocks pin", "clocks --restore", "sudo -k"
RUN = "run a bundle --level standard"
STILL = b"The clocks may still be pinned: restart the board to free them."


class Board:
    """A folder with a bundle, in which the script runs with commands of our own."""

    def __init__(self, folder: Path, jetson: bool = True) -> None:
        self.folder, self.calls, self.temporary = folder, folder / "calls", folder / "temporary"
        (folder / "a bundle").mkdir()
        (folder / "a bundle" / "edgekd-device.pyz").touch()
        self.calls.touch()
        self.temporary.mkdir()
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in TOOLS:
            (self.bin / name).symlink_to(str(shutil.which(name)))
        for name, text in COMMANDS.items():
            if jetson or name != "jetson_clocks":
                (self.bin / name).write_text(text)
                (self.bin / name).chmod(0o755)

    def start(self, *given: str, **said: str) -> subprocess.Popen[bytes]:
        states = {"FAILS": "", "RAN": "0", "SLOW": "", "SLOW_PIN": "", **said}
        around = {"PATH": str(self.bin), "CALLS": str(self.calls), "TMPDIR": str(self.temporary)}
        # a shell started deaf, as under nohup, could not trap them
        heard = ["/usr/bin/env", "--default-signal=HUP,INT,TERM"]
        words = [*heard, str(self.bin / "sh"), str(SCRIPT), *given]
        return subprocess.Popen(
            words,
            env={**around, **states},
            cwd=self.folder,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *given: str, **said: str) -> tuple[int, list[str]]:
        with self.start(*given, **said) as done:
            done.communicate(timeout=20)
        assert os.listdir(self.temporary) == []
        return done.returncode, self.said()

    def said(self) -> list[str]:
        return self.calls.read_text().splitlines()

    def wait_for(self, call: str) -> None:
        deadline = time.monotonic() + 10
        while call not in self.said():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


@pytest.mark.parametrize(
    ("said", "code", "calls"),
    [
        ({}, 0, [STORE, PIN, DROP, RUN, RESTORE]),
        ({"RAN": "1"}, 1, [STORE, PIN, DROP, RUN, RESTORE]),
        ({"FAILS": "sudo"}, 4, [DROP]),
        ({"FAILS": "--store"}, 4, [STORE, DROP]),
        ({"FAILS": "pin"}, 4, [STORE, PIN, DROP, RESTORE]),
        ({"FAILS": "--restore", "RAN": "1"}, 1, [STORE, PIN, DROP, RUN, RESTORE]),
    ],
)
def test_clocks_are_given_back(said: dict[str, str], code: int, calls: list[str], board: Board) -> None:
    assert board.run("a bundle", **said) == (code, calls)


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_a_signal_is_heard_at_once_and_gives_the_clocks_back(sent: signal.Signals, code: int, board: Board) -> None:
    with board.start("a bundle", SLOW="yes") as started:
        board.wait_for(RUN)
        started.send_signal(sent)
        assert started.wait(timeout=20) == code
        board.wait_for(RESTORE)
        assert board.said() == [STORE, PIN, DROP, RUN, RESTORE]
        with contextlib.suppress(ProcessLookupError):  # what a killed script could not end
            os.killpg(started.pid, signal.SIGKILL)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_they_are_being_pinned_too(sent: signal.Signals, board: Board) -> None:
    with board.start("a bundle", SLOW_PIN="yes") as started:
        board.wait_for(PIN)
        started.send_signal(sent)
        started.wait(timeout=20)
        board.wait_for(RESTORE)
    assert board.said() == [STORE, PIN, RESTORE]


@pytest.mark.parametrize(("fails", "told"), [("--restore", True), ("sudo", False), ("--store", False), ("pin", False)])
def test_clocks_that_stay_pinned_are_told(fails: str, told: bool, board: Board) -> None:
    with board.start("a bundle", FAILS=fails) as started:
        said = started.communicate(timeout=20)[1]
    assert (STILL in said) is told


def test_a_signal_at_any_moment_leaves_nothing_behind(tmp_path: Path) -> None:
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        board = Board(folder)
        with board.start("a bundle") as started:
            time.sleep(0.003 * number)
            started.send_signal(signal.SIGTERM)
            started.wait(timeout=20)
        if PIN in board.said():
            board.wait_for(RESTORE)  # fails where they stay pinned


def test_options_reach_the_run(board: Board) -> None:
    assert f"{RUN} --level official --cuda-graph" in board.run("a bundle", "--level", "official", "--cuda-graph")[1]


@pytest.mark.parametrize(
    ("given", "jetson", "code"), [((), True, 2), (("elsewhere",), True, 2), (("a bundle",), False, 4)]
)
def test_nothing_is_touched_without_a_bundle_or_a_board(
    given: tuple[str, ...], jetson: bool, code: int, tmp_path: Path
) -> None:
    assert Board(tmp_path, jetson).run(*given) == (code, [])
