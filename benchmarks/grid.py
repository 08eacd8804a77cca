"""The runner under every table: cells run once, resume after a kill, stop in time, and share a folder safely.

A table is a name, its cells (configs that JSON can hold), a function that runs one, and an estimate of its minutes::

    if __name__ == "__main__":
        sys.exit(main(Table("main_job", cells, run, forecast)))

    results/<table>/<hash>.json        the record of a finished cell, named by its config's hash; committed
    cache/<table>/<hash>/work/         what the cell's function keeps from one attempt to the next
    cache/<table>/<hash>/attempts.jsonl   when it began, and the seconds of every attempt that ended
    cache/<table>/<hash>.failed.json   why it failed; --retry runs it again
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import files
from edgekd.errors import EnvironmentFault, UsageError
from edgekd_device import environment

SCHEMA = 1
HERE = Path(__file__).resolve().parent
TREES = ("edgekd", "deploy/edgekd_device")
SOURCES = ("edgekd", "deploy", "benchmarks", ":(exclude)benchmarks/results", ":(exclude)benchmarks/**.md")
PACKAGES = ("numpy", "torch", "torchvision", "onnx", "onnxruntime", "safetensors")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
AGAIN = 20.0  # seconds after which a stop that was swallowed is repeated
Config = dict[str, Any]


class Stopped(KeyboardInterrupt):
    """Raised in the cell's function when its time is up; no cell's own handling of errors may swallow it."""


def _one_minute(config: Config) -> float:
    return 1.0


@dataclass(frozen=True)
class Table:
    """``run(config, folder)`` returns a result that JSON can hold; killed and called again, it goes on in ``folder``.

    ``forecast(config)``: minutes of one cell on any machine; finished cells put it right for this one.
    ``may_come``: cells that may still be added by what records say, for forecasts.
    ``resumable``: a stopped cell keeps most of its work, so --minutes may start what it cannot finish. A cell that
    measures one unbroken run is not.
    """

    name: str
    cells: Callable[[], Iterable[Config]]
    run: Callable[[Config, Path], Any]
    forecast: Callable[[Config], float] = _one_minute
    resumable: bool = False
    may_come: Callable[[], Iterable[Config]] = tuple


class Cell:
    """One config of a table and where its record, its work folder and its failure lie."""

    def __init__(self, table: Table, config: Config, root: Path) -> None:
        self.table = table
        self.text = files.canonical_json(config)
        self.config: Config = json.loads(self.text)
        self.id = files.sha256_bytes(self.text.encode("utf-8"))[:16]
        self.record = root / "results" / table.name / f"{self.id}.json"
        self.folder = root / "cache" / table.name / self.id
        self.failure = root / "cache" / table.name / f"{self.id}.failed.json"
        self.attempts = self.folder / "attempts.jsonl"

    @property
    def state(self) -> str:
        """done | failed | started | to do"""
        if self.record.exists():
            return "done"
        if self.failure.exists():
            return "failed"
        return "started" if self.attempts.exists() else "to do"

    def spent(self) -> tuple[int, float, bool]:
        """Attempts begun, their seconds so far, and whether those are all: a killed attempt leaves none."""
        notes = self._notes()
        begun, ended = sum("load_average" in note for note in notes), [note for note in notes if "seconds" in note]
        return begun, round(sum(note["seconds"] for note in ended), 3), begun == len(ended)

    def commits(self) -> list[str]:
        """The source's commits of all attempts, in order; an attempt of an older grid did not say: "unknown"."""
        begun = (note for note in self._notes() if "load_average" in note)
        return list(dict.fromkeys(str(note.get("commit") or "unknown") for note in begun))

    def _notes(self) -> list[dict[str, Any]]:
        notes: list[dict[str, Any]] = []
        if self.attempts.exists():
            for line in self.attempts.read_text("utf-8").splitlines():
                with contextlib.suppress(ValueError):  # torn by a kill
                    notes.append(json.loads(line))
        return notes

    def attempt(self, seconds: float | None = None) -> str:
        """Run the cell unless another process has it, for ``seconds`` at most: done | failed | stopped | busy."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(files.lock(self.folder))
            except EnvironmentFault:
                return "busy"
            if self.record.exists():  # finished by another process since we looked
                return "done"
            return self._run(seconds)

    def _run(self, seconds: float | None) -> str:
        files.remove_leftovers(self.folder)
        work, made_by = self.folder / "work", files.sha256_bytes(files.canonical_json(trees()).encode())[:16]
        if any(note.get("trees") != made_by for note in self._notes() if "load_average" in note):
            shutil.rmtree(work, ignore_errors=True)  # of another edgekd: a record is of one
            self.attempts.unlink()
        work.mkdir(exist_ok=True)
        record = {"schema": SCHEMA, "table": self.table.name, "config": self.config, **provenance()}
        began = {"load_average": record["load_average"], "commit": record["commit"], "trees": made_by}
        files.append_line(self.attempts, files.canonical_json(began))
        try:
            with self._timed(), _stopped_after(seconds):
                record["result"] = self.table.run(self.config, work)
            record["hardware"]["gpu"], record["commits"] = gpu(), self.commits()
            record["attempts"], record["seconds"], record["seconds_whole"] = self.spent()
            files.write_json(self.record, record, "record")
        except Stopped:
            self.failure.unlink(missing_ok=True)  # of an attempt before: this one found nothing wrong
            return "stopped"
        except Exception as error:
            record.pop("result", None)
            record["attempts"], record["seconds"], record["seconds_whole"] = self.spent()
            record["error"] = f"{type(error).__name__}: {error}"
            record["traceback"] = traceback.format_exc()
            files.write_json(self.failure, record, "failure")
            return "failed"
        self.failure.unlink(missing_ok=True)
        return "done"

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Note the seconds of this attempt, however it ends short of a kill."""
        start = time.monotonic()
        try:
            yield
        finally:
            files.append_line(self.attempts, files.canonical_json({"seconds": round(time.monotonic() - start, 3)}))


@contextlib.contextmanager
def _stopped_after(seconds: float | None) -> Iterator[None]:
    """Raise Stopped in the block after ``seconds``, and again where that was swallowed; None: never."""
    if seconds is None:
        yield
        return

    def stop(*_: object) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), AGAIN)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def provenance() -> dict[str, Any]:
    """Commit, hardware, versions and load: what a figure needs beside it. No host name, no user, no path."""
    found = environment.collect()
    versions = {"python": found["python"], "edgekd": found["edgekd"]}
    versions.update({package: environment.version_of(package) for package in PACKAGES})
    return {
        **commit(),
        "hardware": {name: found[name] for name in ("cpu", "cores", "cores_usable", "memory_mb", "machine")},
        "versions": versions,
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "load_average": round(os.getloadavg()[0], 2),
    }


def commit() -> dict[str, Any]:
    """The source's commit, and whether the sources differ from it; empty outside a checkout."""
    try:
        return {"commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain", "--", *SOURCES))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": "", "dirty": None}


def trees() -> dict[str, Any]:
    """What edgekd is at this commit: for what cells share, which commits of records and pages leave as it is."""
    try:
        found = _git("rev-parse", *(f"HEAD:{tree}" for tree in TREES)).split()
        changed = _git("status", "--porcelain", "--", *TREES) + _git("diff", "HEAD", "--", *TREES)
        return {
            **dict(zip(TREES, found, strict=True)),
            "dirty": files.sha256_bytes(changed.encode()) if changed else False,
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=HERE.parent, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def gpu() -> str | None:
    """The CUDA device's name, if the cell loaded torch and there is one."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_available() else None


class Grid:
    """The cells of a table that were asked for."""

    def __init__(self, table: Table, root: Path, only: str = "") -> None:
        every = [Cell(table, config, root) for config in table.cells()]
        if len({cell.id for cell in every}) < len(every):
            raise UsageError(f"The table {table.name} has two cells with the same config.")
        self.table = table
        self.cells = [cell for cell in every if only in cell.text or cell.id.startswith(only)]
        if not self.cells:
            raise UsageError(f"No cell of {table.name} matches {only!r}; --list shows them.")
        self.pace = self._pace(every)
        later = (Cell(table, config, root) for config in table.may_come())
        known = {cell.id for cell in every}
        self.later = [cell for cell in later if cell.id not in known and only in cell.text]

    def _pace(self, every: Sequence[Cell]) -> float:
        """Measured over forecast minutes, of cells whose whole time on this kind of machine is known; 1 without any."""
        here = environment.collect()["cpu"]
        ratios = []
        for cell in every:
            if cell.record.exists():
                record = files.read_json(cell.record)
                whole = record["attempts"] == 1 or (self.table.resumable and record.get("seconds_whole"))
                if whole and record["hardware"]["cpu"] == here:
                    ratios.append(record["seconds"] / 60 / max(1e-6, self.table.forecast(cell.config)))
        return statistics.median(ratios) if ratios else 1.0

    def minutes(self, cell: Cell) -> float:
        """What the cell will still take; a tenth at least, since a forecast may be wrong."""
        whole = self.pace * self.table.forecast(cell.config)
        spent = cell.spent()[1] / 60 if self.table.resumable else 0.0
        return max(0.1 * whole, whole - spent)

    def left(self, retry: bool = False) -> list[Cell]:
        """Cells without a record; those that failed too where they are to be tried again."""
        states = ("to do", "started", "failed") if retry else ("to do", "started")
        return [cell for cell in self.cells if cell.state in states]

    def show(self) -> None:
        for cell in self.cells:
            measured = files.read_json(cell.record)["seconds"] / 60 if cell.state == "done" else None
            took = f"{measured:7.2f} min" if measured is not None else f"{self.minutes(cell):6.1f}? min"
            print(f"{cell.id}  {cell.state:<8} {took}  {cell.text}")

    def show_forecast(self) -> None:
        left = self.left()
        minutes = sum(self.minutes(cell) for cell in left)
        failed = sum(cell.state == "failed" for cell in self.cells)
        print(
            f"{len(left)} of {len(self.cells)} cells left, about {minutes:.1f} minutes on one process; {failed} failed."
        )
        if self.later:
            minutes = sum(self.minutes(cell) for cell in self.later)
            print(f"Up to {len(self.later)} more, about {minutes:.1f} minutes, hang on what records say.")

    def work(self, minutes: float | None, retry: bool) -> None:
        """Run what is left in order, passing over cells that other processes have.

        A cell that would end too late is passed over too, or stopped when the time is up where it can go on later.
        """
        began, wall = time.monotonic(), time.time()
        for cell in self.cells:
            state = cell.state
            if state == "done" or (state == "failed" and not (retry and _older(cell.failure, wall))):
                continue
            remaining = None if minutes is None else max(0.0, minutes - (time.monotonic() - began) / 60)
            wanted, late = self.minutes(cell), ""
            if remaining is not None and wanted > remaining:
                late = f"about {wanted:.1f} min, {remaining:.1f} left"
                if not (self.table.resumable and remaining):
                    print(f"{cell.id}  not started: {late}", flush=True)
                    continue
                late = f"  ({late}: will be stopped and goes on next time)"
            print(f"{cell.id}  starts  {cell.text}{late}", flush=True)
            start = time.monotonic()
            outcome = cell.attempt(60 * remaining if remaining is not None and self.table.resumable else None)
            after = f"{outcome} after {(time.monotonic() - start) / 60:.2f} min"
            print(f"{cell.id}  {after}{': goes on next time' if outcome == 'stopped' else ''}", flush=True)

    def summary(self) -> int:
        """Print where the table stands; 1 if a cell failed, else 0."""
        states = [cell.state for cell in self.cells]
        failed = [cell for cell in self.cells if cell.state == "failed"]
        for cell in failed:
            print(f"{cell.id}  failed: {files.read_json(cell.failure)['error']}  (--retry runs it again)")
        print(f"{self.table.name}: {states.count('done')} of {len(states)} cells done, {len(failed)} failed.")
        return 1 if failed else 0


def _older(path: Path, wall: float) -> bool:
    """Whether the file is from before ``wall``: what failed since then is not tried again at once."""
    try:
        return path.stat().st_mtime < wall
    except FileNotFoundError:
        return False


def _spread(processes: int) -> None:
    """The same command line in ``processes`` processes of one thread each; they share the cells by their locks."""
    command = [sys.executable, *sys.orig_argv[1:], "--processes", "1", "--quiet-end"]
    children = [subprocess.Popen(command, env={**os.environ, **ONE_THREAD}) for _ in range(processes)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        for child in children:
            child.wait()
    finally:
        for child in children:
            if child.poll() is None:
                child.terminate()


def _arguments(table: Table, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=table.name, description=f"Run the cells of the table {table.name}.")
    parser.add_argument(
        "--minutes",
        type=float,
        help="start no cell that would not end within this time, or stop it then where it can go on later",
    )
    parser.add_argument("--processes", type=int, default=1, help="this many processes of one thread each")
    parser.add_argument(
        "--ray",
        default="",
        metavar="ADDRESS",
        help="on a Ray cluster: its address, auto, or local for --processes workers",
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only cells whose config holds TEXT, or whose hash starts so"
    )
    parser.add_argument("--retry", action="store_true", help="run failed cells again")
    parser.add_argument("--list", action="store_true", help="print every cell and its state")
    parser.add_argument("--forecast", action="store_true", help="print what is left")
    parser.add_argument(
        "--folder", type=Path, default=HERE, help="where results/ and cache/ are (default: benchmarks/)"
    )
    parser.add_argument("--quiet-end", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(table: Table, argv: Sequence[str] | None = None) -> int:
    """The command line of a table; 0, or 1 if a cell failed, or 2 for a command line that makes no sense."""
    chosen = _arguments(table, argv)
    try:
        grid = Grid(table, chosen.folder, chosen.only)
        if chosen.list:
            grid.show()
            return 0
        if not chosen.quiet_end:  # of several processes one says it
            grid.show_forecast()
        if chosen.forecast:
            return 0
        if chosen.ray:
            from benchmarks.cluster import spread

            spread(grid.left(chosen.retry), chosen.ray, chosen.processes, chosen.minutes)
        elif chosen.processes > 1:
            _spread(chosen.processes)
        else:
            grid.work(chosen.minutes, chosen.retry)
        return 0 if chosen.quiet_end else grid.summary()
    except (UsageError, EnvironmentFault) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
