"""Where a distillation step's time goes, on the WRN-16-1 teacher and its default student: the loop's own share.

    python -m benchmarks.loop_time

Overhead = data and augmentation + bookkeeping (rates, loss check, sums, progress), over the whole step; bar: 10 %. Run
it on an idle machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import prepare_data
from benchmarks.grid import Config, Table, main
from edgekd import checkpoints, data, distill, models, targets
from edgekd.config import PROFILES, method_config
from edgekd.training import TrainConfig
from edgekd.types import ModelSpec

TEACHER = "cifar10_wrn16-1_abl_grid_t0.tar"
STEPS = 150
OWN = ("data", "bookkeeping")
STEP = ("data", "step", "backward", "optimiser", "bookkeeping")


def cells() -> Iterator[Config]:
    for method in ("scratch", "kd", "overhaul", "robustkd"):
        for threads in (1, 2):
            yield {"method": method, "threads": threads, "teacher": TEACHER, "steps": STEPS}


def run(config: Config, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(config["threads"])
    tensors = checkpoints.load(prepare_data.shared_folder() / "checkpoints" / config["teacher"]).tensors
    teacher = models.build(models.infer_spec(tensors, input_shape=(3, 32, 32)), tensors)
    name = models.default_student(
        models.cost(teacher.spec), targets.get("cpu").default_students, teacher.spec.input, 10
    )
    student = ModelSpec(name, 10, teacher.spec.input)
    train = TrainConfig.model_validate({**PROFILES["fast"]["train"], "epochs": 1})
    images = data.load(prepare_data.prepare("cifar10_train")).subset(np.arange(config["steps"] * train.batch_size))
    options = method_config(config["method"])().model_dump(mode="json")
    if "detox_steps" in options:
        options["detox_steps"] = 1
    needs_teacher = config["method"] != "scratch"
    _, log = distill.run(teacher if needs_teacher else None, student, images, config["method"], options, train)
    whole = sum(log.seconds.get(part, 0.0) for part in STEP)
    return {
        "student": name,
        "seconds": {part: log.seconds.get(part, 0.0) for part in STEP},
        "ms_per_step": 1000 * whole / log.steps,
        "images_per_second": log.steps * train.batch_size / whole,
        "overhead": sum(log.seconds.get(part, 0.0) for part in OWN) / whole,
    }


if __name__ == "__main__":
    sys.exit(main(Table("loop_time", cells, run)))
