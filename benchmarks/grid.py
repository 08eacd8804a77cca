"""The runner that every table stands on: cells run once, resume after a kill, stop in time, and share a folder safely.

A table is a name, its cells (configs that JSON can hold), a function that runs one, and an estimate of its minutes::

    if __name__ == "__main__":
        sys.exit(main(Table("main_job", cells, run, forecast)))

    results/<table>/<hash>.json        the record of a finished cell, named by its config's hash; committed
    cache/<table>/<hash>/work/         what the cell's function keeps from one attempt to the next
    cache/<table>/<hash>.failed.json   why it failed; --retry runs it again
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import files
from edgekd.errors import EnvironmentFault, UsageError
from edgekd_device import environment

SCHEMA = 1
HERE = Path(__file__).resolve().parent
SOURCES = ("edgekd", "deploy", "benchmarks", ":(exclude)benchmarks/results", ":(exclude)benchmarks/README.md")
PACKAGES = ("numpy", "torch", "torchvision", "onnx", "onnxruntime", "safetensors")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
Config = dict[str, Any]


def _one_minute(config: Config) -> float:
    return 1.0


@dataclass(frozen=True)
class Table:
    """``run(config, folder)`` returns a result that JSON can hold; killed and called again, it goes on in ``folder``.

    ``forecast(config)``: minutes of one cell on any machine; finished cells put it right for this one.
    """

    name: str
    cells: Callable[[], Iterable[Config]]
    run: Callable[[Config, Path], Any]
    forecast: Callable[[Config], float] = _one_minute


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

    def attempt(self) -> str:
        """Run the cell unless another process has it: done | failed | busy."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(files.lock(self.folder))
            except EnvironmentFault:
                return "busy"
            if self.record.exists():  # finished by another process since we looked
                return "done"
            return self._run()

    def _run(self) -> str:
        files.remove_leftovers(self.folder)
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        record = {"schema": SCHEMA, "table": self.table.name, "config": self.config, **provenance()}
        files.append_line(self.attempts, files.canonical_json({"load_average": record["load_average"]}))
        start = time.monotonic()
        try:
            record["result"] = self.table.run(self.config, work)
            record["seconds"] = round(time.monotonic() - start, 3)
            record["attempts"] = len(self.attempts.read_text("utf-8").splitlines())
            record["hardware"]["gpu"] = gpu()
            files.write_json(self.record, record, "record")
        except Exception as error:
            record.pop("result", None)
            record["seconds"] = round(time.monotonic() - start, 3)
            record["error"] = f"{type(error).__name__}: {error}"
            record["traceback"] = traceback.format_exc()
            files.write_json(self.failure, record, "failure")
            return "failed"
        self.failure.unlink(missing_ok=True)
        return "done"


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

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=HERE.parent, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *SOURCES))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": "", "dirty": None}


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

    def _pace(self, every: Sequence[Cell]) -> float:
        """Measured over forecast minutes, of cells that finished in one go on this kind of machine; 1 without any."""
        here = environment.collect()["cpu"]
        ratios = []
        for cell in every:
            if cell.record.exists():
                record = files.read_json(cell.record)
                if record["attempts"] == 1 and record["hardware"]["cpu"] == here:
                    ratios.append(record["seconds"] / 60 / max(1e-6, self.table.forecast(cell.config)))
        return statistics.median(ratios) if ratios else 1.0

    def minutes(self, cell: Cell) -> float:
        """What the cell will take from its beginning."""
        return self.pace * self.table.forecast(cell.config)

    def left(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.state in ("to do", "started")]

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

    def work(self, minutes: float | None, retry: bool) -> None:
        """Run what is left in order, passing over cells that other processes have and those that would end too late."""
        began, wall = time.monotonic(), time.time()
        for cell in self.cells:
            state = cell.state
            if state == "done" or (state == "failed" and not (retry and _older(cell.failure, wall))):
                continue
            remaining = None if minutes is None else minutes - (time.monotonic() - began) / 60
            if remaining is not None and self.minutes(cell) > remaining:
                print(
                    f"{cell.id}  not started: about {self.minutes(cell):.1f} min, {max(0.0, remaining):.1f} left",
                    flush=True,
                )
                continue
            print(f"{cell.id}  starts  {cell.text}", flush=True)
            start = time.monotonic()
            outcome = cell.attempt()
            print(f"{cell.id}  {outcome} after {(time.monotonic() - start) / 60:.2f} min", flush=True)

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
    parser.add_argument("--minutes", type=float, help="start no cell that would not end within this time")
    parser.add_argument("--processes", type=int, default=1, help="this many processes of one thread each")
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
        if chosen.forecast:
            grid.show_forecast()
            return 0
        if chosen.processes > 1:
            _spread(chosen.processes)
        else:
            grid.work(chosen.minutes, chosen.retry)
        return 0 if chosen.quiet_end else grid.summary()
    except (UsageError, EnvironmentFault) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
