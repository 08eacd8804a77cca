"""The usual methods at the size of their papers, WRN-40-2 to WRN-16-2 on all of CIFAR-100: for a GPU.

    CIFAR100=cifar-100-python python -m benchmarks.paper_baselines --minutes 60

The protocol of the CRD benchmark (method card kd_baselines, 1): 240 epochs, batch 64, rate 0.05 falling by ten at 150,
180 and 210, last epoch, three seeds, weights as published for wide ResNets. The first cell trains the teacher; all
others wait.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.grid import HERE, Cell, Config, Table, main
from benchmarks.paper_baselines_table import TEACHER
from benchmarks.students import percent_right
from edgekd import checkpoints, data, distill, models
from edgekd.data import ImageSet
from edgekd.errors import UsageError
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, Model, ModelSpec

VARIABLE = "CIFAR100"  # where the release lies
NETWORK, STUDENT, EPOCHS = "wrn-40-2", "wrn-16-2", 240
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    TEACHER: ("scratch", {}),
    "scratch": ("scratch", {}),
    "Hinton KD": ("kd", {}),
    "CRD": ("crd", {}),
    "DKD": ("dkd", {"beta": 6.0}),
    "ReviewKD": ("reviewkd", {}),
    "AT": ("at", {}),
    "SP": ("sp", {}),
    "FitNets": ("fitnets", {}),
    "NST": ("nst", {}),
    "overhaul, paper": ("overhaul", {"fade": "none", "scale": "none", "margins": "gaussian"}),
}


def cells() -> Iterator[Config]:
    yield cell(TEACHER, 0)
    for seed in (0, 1, 2):
        yield from (cell(row, seed) for row in ROWS if row != TEACHER)


def cell(row: str, seed: int) -> Config:
    return {"row": row, "network": NETWORK if row == TEACHER else STUDENT, "epochs": EPOCHS, "seed": seed}


def run(config: Config, folder: Path) -> dict[str, Any]:
    if VARIABLE not in os.environ:
        raise UsageError(
            f"Name the folder of the CIFAR-100 release with ${VARIABLE}; the shared data has a fifth of it."
        )
    images, test = (data.load(os.environ[VARIABLE], part=part) for part in ("train", "test"))
    spec = ModelSpec(
        config["network"], images.num_classes, InputSpec(*images.shape, *models.normalization("cifar100", 3))
    )
    settings = {
        "batch_size": 64,
        "lr": 0.05,
        "nesterov": False,
        "schedule": "crd",
        "precision": "fp32",
        "device": "auto",
    }
    train = TrainConfig.model_validate({**settings, "epochs": config["epochs"], "seed": config["seed"]})
    method, options = ROWS[config["row"]]
    teacher = None if method == "scratch" else _teacher(images)
    made, log = distill.run(teacher, spec, images, method, options, train, folder=folder / "train")
    checkpoints.save(folder / "model.safetensors", models.weights(made), {"spec": spec.to_json()})
    return {"acc": percent_right(made, test), "images": images.sha256, "seconds": sum(log.seconds.values())}


def _spec(network: str, images: ImageSet) -> ModelSpec:
    return ModelSpec(network, images.num_classes, InputSpec(*images.shape, *models.normalization("cifar100", 3)))


def _teacher(images: ImageSet) -> Model:
    """As the first cell left it."""
    place = Cell(TABLE, cell(TEACHER, 0), HERE)
    file = place.folder / "work" / "model.safetensors"
    if not place.record.exists() or not file.exists():
        raise UsageError("The teacher is not there yet: run the first cell before the others.")
    return models.build(_spec(NETWORK, images), checkpoints.load(file).tensors)


def forecast(config: Config) -> float:
    """Minutes on a GPU."""
    return 120.0 if config["row"] == TEACHER else 60.0


TABLE = Table("paper_baselines", cells, run, forecast, resumable=True)

if __name__ == "__main__":
    sys.exit(main(TABLE))
