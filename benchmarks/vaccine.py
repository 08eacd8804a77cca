"""Does the shuffling vaccine know a backdoor when it sees one? Without any training, on third-party teachers.

    python -m benchmarks.vaccine --minutes 20

A cell is a teacher and how many of its last convolutions are shuffled. The search for a shuffle sees patches alone, as in a run; then
triggered and clean test images are told apart by their distance, which only who knows the trigger can look at: AUC says how well, and
"suspected" is what the mask would take away. Nothing is chosen by these figures; ABD's defaults stay what they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import prepare_data
from benchmarks.attacks import START, clean_network
from benchmarks.datafree import BACKDOORED, CLEAN, GRID, SPARE
from benchmarks.grid import Config, Table, main
from benchmarks.transfer import teacher_of
from edgekd import audit, data
from edgekd.datafree.patches import held_out
from edgekd.datafree.vaccine import BATCH, Vaccine, VaccineSettings, as_float, plain
from edgekd.losses import log_distance

LAYERS = (5, 4, 3, 2, 1)  # five is the default
IMAGES = 2000  # test images of either kind


def cells() -> Iterator[Config]:
    for layers in LAYERS:
        for teacher in (*BACKDOORED, SPARE, CLEAN):
            yield {"teacher": teacher, "layers": layers, "images": IMAGES, "seed": 0}


def run(config: Config, folder: Path) -> dict[str, Any]:
    test = data.load(prepare_data.prepare("cifar10_test"))
    teacher, trigger = teacher_of(GRID if config["teacher"] == CLEAN else config["teacher"], test)
    if config["teacher"] == CLEAN:
        teacher = clean_network(START)
    settings = VaccineSettings(layers=config["layers"])
    vaccine = Vaccine(settings, config["seed"])
    pictures = str(prepare_data.shared_folder() / "data")
    pool = torch.from_numpy(held_out(pictures, teacher.spec.input.shape, settings.pool, config["seed"]))
    vaccine.search(teacher.module, pool)
    found = {**vaccine.report, "convolutions": len(vaccine.orders(teacher.module, 0, 0))}
    if not vaccine.on:
        vaccine.trial.fill_(0)  # what the first shuffle would have told
    probes = audit.probes(test, (trigger,), teacher.spec.num_classes)
    triggered = probes.triggered[0].images[: config["images"]]
    distances, suspected = {}, {}
    for name, images in (("patches", pool), ("clean", test.images[: config["images"]]), ("triggered", triggered)):
        pixels = torch.as_tensor(images)
        distances[name] = _distances(vaccine, teacher.module, pixels)
        suspected[name] = 100 * float(vaccine.flagged(teacher.module, pixels).double().mean())
    return {**found, "auc": separation(distances["triggered"], distances["clean"]), "suspected": suspected}


@torch.no_grad()
def _distances(vaccine: Vaccine, teacher: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    parts = [as_float(part) for part in torch.split(images, BATCH)]
    return torch.cat([log_distance(plain(teacher, part), vaccine(teacher, part)) for part in parts]).numpy()


def separation(low: np.ndarray, high: np.ndarray) -> float:
    """AUC: how often a value of ``low`` lies below one of ``high``, ties counted half."""
    order = np.sort(high)
    below = np.searchsorted(order, low, "left"), np.searchsorted(order, low, "right")
    return float(1 - (below[0] + below[1]).mean() / (2 * len(high)))


def forecast(config: Config) -> float:
    return 2.7


TABLE = Table("vaccine", cells, run, forecast)

if __name__ == "__main__":
    sys.exit(main(TABLE))
