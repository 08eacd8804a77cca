"""Does the shuffling vaccine know a backdoor when it sees one? Without any training, on third-party teachers.

    python -m benchmarks.vaccine --minutes 20

A cell is a teacher and a seed; ABD's five last convolutions are shuffled. The search for a shuffle sees patches as a run
does, but fewer of them, and would leave out of these what a run would. Then all trials are looked at, so that the rules
can be compared. Triggered and clean test images are told apart by their distance, which only somebody who knows
the trigger can look at: AUC says how well. Nothing is chosen by these figures; ABD's defaults stay what they are.
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
from benchmarks.datafree import BACKDOORED, GRID, SPARE, pictures
from benchmarks.datafree_table import CLEAN
from benchmarks.grid import Config, Table, main
from benchmarks.transfer import teacher_of
from edgekd import audit, data, datafree
from edgekd.datafree import View
from edgekd.datafree.patches import Patches
from edgekd.datafree.told import Told
from edgekd.datafree.vaccine import BATCH, Vaccine, VaccineSettings, as_float, plain
from edgekd.losses import log_distance, suspicious
from edgekd.training import TrainConfig
from edgekd.types import Model

SEEDS = (0, 1, 2)
TEACHERS = (*BACKDOORED, SPARE, CLEAN)
IMAGES = 2000  # test images, with and without the trigger
POOL = 8192  # patches
RULES = ("mad", "mean")


def cells() -> Iterator[Config]:
    for seed in SEEDS:
        for teacher in TEACHERS:
            yield {"teacher": teacher, "layers": VaccineSettings().layers, "images": IMAGES, "pool": POOL, "seed": seed}


def run(config: Config, folder: Path) -> dict[str, Any]:
    test = data.load(prepare_data.prepare("cifar10_test"))
    teacher, trigger = teacher_of(GRID if config["teacher"] == CLEAN else config["teacher"], test)
    if config["teacher"] == CLEAN:
        teacher = clean_network(START)
    shown = test.subset(np.arange(config["images"]))
    probes = audit.probes(shown, (trigger,), teacher.spec.num_classes)
    return told_apart(config, teacher, pictures(), shown.images, probes.triggered[0].images)


def told_apart(
    config: Config, teacher: Model, image: str, clean: np.ndarray, triggered: np.ndarray, **settings: Any
) -> dict[str, Any]:
    """The search on the patches of a run, and what its shuffle makes of clean and triggered images uint8 [N, C, H, W].

    image: what the patches are cut from; settings: of the vaccine, beside its layers.
    """
    train = TrainConfig(**{**Patches.presets["fast"]["train"], "seed": config["seed"]})
    shuffle = VaccineSettings(layers=config["layers"], **settings)
    source = datafree.make("patches", {"images": config["pool"], "image": image}, teacher, train, shuffle)
    assert isinstance(source, Patches)
    assert source.vaccine is not None
    source.open(View(Told(teacher.module), teacher.module, torch.device("cpu")))
    vaccine, found = source.vaccine, source.report
    vaccine.look_on(teacher.module, torch.from_numpy(source.collected(shuffle.pool)))
    refused = {rule: [vaccine.refused(trial, rule) for trial in range(shuffle.trials)] for rule in RULES}
    report = vaccine.report
    if not vaccine.on:
        vaccine.trial.fill_(0)  # what the first shuffle would have told
    looked = {name: _looked(vaccine, teacher.module, each) for name, each in (("clean", clean), ("triggered", triggered))}  # fmt: skip
    return {
        **report,
        **{name: found[name] for name in ("images", "suspicious", "spared", "doubt")},
        "convolutions": len(vaccine.orders(teacher.module, 0, 0)),
        "pass": {rule: sum(not why for why in refused[rule]) for rule in RULES},
        "pass_by_tail": {rule: sum("no tail" not in why for why in refused[rule]) for rule in RULES},
        "auc": separation(looked["triggered"][0], looked["clean"][0]),
        "suspected": {name: share for name, (_, share) in looked.items()},
    }


@torch.no_grad()
def _looked(vaccine: Vaccine, teacher: torch.nn.Module, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Log-distances [N], and what percentage of the images the shuffled teacher names as the teacher does."""
    distances, flags = [], []
    for part in map(as_float, torch.split(torch.from_numpy(images), BATCH)):
        logits, other = plain(teacher, part), vaccine(teacher, part)
        distances.append(log_distance(logits, other))
        flags.append(suspicious(logits, other))
    return torch.cat(distances).numpy(), 100 * float(torch.cat(flags).double().mean())


def separation(low: np.ndarray, high: np.ndarray) -> float:
    """AUC: how often a value of ``low`` lies below one of ``high``, ties counted half."""
    order = np.sort(high)
    below = np.searchsorted(order, low, "left"), np.searchsorted(order, low, "right")
    return float(1 - (below[0] + below[1]).mean() / (2 * len(high)))


def forecast(config: Config) -> float:
    """Some 155,000 answers of the teacher or its shuffled copies: 8 trials of 3 on 4096 patches, then what was accepted."""
    return 3.0


TABLE = Table("vaccine", cells, run, forecast)

if __name__ == "__main__":
    sys.exit(main(TABLE))
