"""The cells of a table on the workers of a Ray cluster: one task per cell, one GPU each if the cluster has any.

    pip install 'edgekd[cluster]'
    python -m benchmarks.attacks --ray auto                  # a cluster that runs already (`ray start`)
    python -m benchmarks.attacks --ray local --processes 2   # one of this machine's own, with two workers

Every machine needs this checkout at the same place, and the same packages. A task is the table's own command line for
one cell, so a cell that is stopped resumes there next time; its record comes back to where you called this. What a
table keeps beside its records (teachers, students) is shared only between machines that share benchmarks/cache. Tables
whose cells depend on other records (transfer, robustkd) need benchmarks/results shared as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from edgekd.errors import EnvironmentFault
from edgekd.files import write_text

LOCAL = "local"
TRIES = 2  # more, where a worker dies


def spread(cells: Sequence[Any], address: str, workers: int, minutes: float | None = None) -> None:
    """Run ``cells`` (grid.Cell) on the cluster at ``address``, within ``minutes``; raises EnvironmentFault without Ray or a cluster.

    A cell whose task is lost is told and left for the next call.
    """
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise EnvironmentFault("Ray is not installed: pip install 'edgekd[cluster]'.") from None
    try:
        if address == LOCAL:
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False)
        else:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EnvironmentFault(
            f"There is no Ray cluster at {address!r} ({error}). Start one with `ray start`."
        ) from None
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=TRIES)(_one)
        command = [*sys.orig_argv[1:], "--ray", "", "--processes", "1", "--quiet-end"]
        until = None if minutes is None else time.time() + 60 * minutes
        names = {
            task.remote(command, os.getcwd(), cell.id, str(cell.record), str(cell.failure), until): cell
            for cell in cells
        }
        waiting = list(names)
        while waiting:
            (done,), waiting = ray.wait(waiting, num_returns=1)
            cell = names[done]
            try:
                found = ray.get(done)
            except ray.exceptions.RayError as error:
                print(f"{cell.id}  lost: {str(error).strip().splitlines()[-1]}", flush=True)
                continue
            for place, text in ((cell.record, found["record"]), (cell.failure, found["failure"])):
                if text is not None and not place.exists():
                    write_text(place, text, "record")
            why = f"  ({found['said']})" if cell.state == "to do" and found["said"] else ""
            print(f"{cell.id}  {cell.state}  on {found['node'][:8]}  {cell.text}{why}", flush=True)
    finally:
        ray.shutdown()


def _one(command: list[str], folder: str, name: str, record: str, failure: str, until: float | None) -> dict[str, Any]:
    """On a worker: run one cell in what is left of the time, return what it left."""
    ray: Any = import_module("ray")
    left = [] if until is None else ["--minutes", f"{max(0.0, until - time.time()) / 60:.3f}"]
    whole = [sys.executable, *command, "--only", name, *left]
    ended = subprocess.run(whole, cwd=folder, check=False, capture_output=True, text=True)
    said = [line for line in (ended.stderr or ended.stdout).splitlines() if line.strip()] if ended.returncode else []
    places = {"record": Path(record), "failure": Path(failure)}
    texts = {key: place.read_text("utf-8") if place.exists() else None for key, place in places.items()}
    return {**texts, "node": ray.get_runtime_context().get_worker_id(), "said": said[-1].strip() if said else ""}
