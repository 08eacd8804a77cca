"""How long a user waits: `edgekd compress` of the WRN-16-1 teacher on all of CIFAR-10 with the fast profile.

    python -m benchmarks.fast_run

Bar: 15 minutes on two idle cores, with the default controls (scratch, for the floor) and bench level smoke. The record
has each stage's seconds. An interrupted run is not a measurement and starts again.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import prepare_data
from benchmarks.grid import Config, Table, main
from benchmarks.main_job import known
from edgekd.config import resolve
from edgekd.files import read_json
from edgekd.pipeline import compress

BAR_MINUTES = 15.0


def cells() -> Iterator[Config]:
    yield {"teacher": "cifar10_wrn16-1_abl_grid_t0.tar", "profile": "fast", "bench": "smoke", "threads": 2, "seed": 0}


def run(config: Config, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(config["threads"])
    shared = prepare_data.shared_folder() / "checkpoints"
    flags = {
        "teacher": str(shared / config["teacher"]),
        "data": str(prepare_data.prepare("cifar10_train")),
        "test": str(prepare_data.prepare("cifar10_test")),
        "profile": config["profile"],
        "bench.level": config["bench"],
        "seed": config["seed"],
        **known(config["teacher"], shared),
    }
    place = folder / "run"
    shutil.rmtree(place, ignore_errors=True)
    started = time.monotonic()
    record = compress(resolve(None, flags), place, command="benchmarks/fast_run.py")
    seconds = time.monotonic() - started
    stages = {done.parent.name: read_json(done)["seconds"] for done in sorted(place.glob("work/*/done.json"))}
    shipped = next(row for row in record.rows if row.stage == "model.u8s8.onnx")
    return {
        "minutes": seconds / 60,
        "within_bar": seconds / 60 <= BAR_MINUTES,
        "stages": {name: round(value, 1) for name, value in stages.items()},
        "student": record.student["spec"]["arch"],
        "acc": shipped.acc.value if shipped.acc else None,
    }


if __name__ == "__main__":
    sys.exit(main(Table("fast_run", cells, run, lambda config: BAR_MINUTES)))
