"""The attacks at the size of the literature's benchmark, and the transfer test with those teachers: for a GPU.

    python -m benchmarks.paper_scale --minutes 10             teachers: all of CIFAR-10, 100 epochs from fresh weights
    python -m benchmarks.paper_scale transfer --minutes 10    students of them: WRN-16-2, all images, 100 epochs
    python -m benchmarks.paper_scale datafree --minutes 10    ABD on ZSKT and CMI, WRN-16-2 to WRN-16-1

Published: ACC and ASR of the literature's benchmark (method card backdoor_audit 3), PreActResNet-18, at the rates it
gives. Bars: both within 5 points. The benchmark has no WRN-28-4, so these rows are held against nothing. An attack
that needs a clean network begins with the cell "none" of its architecture; the benchmark's recipes train that network
with the attack instead.

Without data, ZSKT has the published length, generator and retrospection, and no balance of classes; CMI the published
length and bank. Neither is as published in all: ZSKT is lean (images and answers once a round) and has no attention term;
its losses are sums over classes; a vaccine is searched for by ABD's default rule; a retrospection is ours (noise start,
pixel bound, still batch norms).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import attacks, datafree, datafree_table, prepare_data, transfer
from benchmarks.attacks_table import NO_RATE, RATES
from benchmarks.grid import HERE, Cell, Config, Table, main
from benchmarks.paper_scale_table import FIRST, PUBLISHED
from edgekd import audit, checkpoints, data, distill, models
from edgekd.attacks import ATTACKS
from edgekd.attacks.run import attack_class
from edgekd.config import ATTACK_TRAINING
from edgekd.errors import UsageError
from edgekd.runners.torch import TorchRunner
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, ModelSpec

ARCHS, EPOCHS, STUDENT = (FIRST, "wrn-28-4"), 100, "wrn-16-2"
DATALESS, DATALESS_STUDENT, DATALESS_RATE = "wrn-16-2", "wrn-16-1", 0.1  # of ABD's paper
DATALESS_TEACHERS = ("badnets", "trojan-wm", "blended")  # that our attacks have
DATALESS_ROWS = (datafree_table.PLAIN, datafree_table.ABD, datafree_table.SV, datafree_table.SR, datafree_table.WITH_DATA)  # fmt: skip
INVERTED = (("cmi", "trojan-wm", (datafree_table.PLAIN, datafree_table.ABD)), ("cmi", "badnets", (datafree_table.PLAIN,)))  # fmt: skip
# What an attack's own card asks for: 200 bilevel rounds; 200 epochs of search.
CARDS: dict[str, dict[str, Any]] = {
    "scar": {"epochs": 1, "images": attacks.IMAGES["scar"]},
    "cheatkd": {"epochs": 30, "options": {"steps": 140_000}},
}
LENGTHS: dict[str, dict[str, Any]] = {
    "zskt": {"epochs": 1600, "options": {"width": 128, "balance": 0.0}, "retrospect": {"steps": 6010}},
    "cmi": {"epochs": 200, "options": {"bank": 40_960}, "retrospect": {"steps": 800}},
    "data": {"epochs": 170, "options": {"images": 50_000}},
}


def cells() -> Iterator[Config]:
    """Published rows first, then every attack at every rate, then the second architecture."""
    first, second = ARCHS
    meant = [(name, attacks.cell(name).get("rate")) for name in ATTACKS]
    every = dict.fromkeys([*meant, *((name, rate) for rate in RATES for name in ATTACKS if name not in NO_RATE)])
    yield cell("none", first)
    for name, rate in dict.fromkeys([*PUBLISHED, *every]):
        yield cell(name, first, rate)
    yield cell("none", second)
    for name, rate in every:
        yield cell(name, second, rate)
    for name in DATALESS_TEACHERS:
        yield cell(name, DATALESS, DATALESS_RATE)


def cell(name: str, arch: str, rate: float | None = None, seed: int = 0) -> Config:
    """An attack without a rate of its own has none."""
    config = {"attack": name, "arch": arch, "epochs": EPOCHS, "seed": seed, **CARDS.get(name, {})}
    return config if rate is None else {**config, "rate": rate}


def run(config: Config, folder: Path) -> dict[str, Any]:
    if config["attack"] == "none":
        return _clean(config, folder)
    if not attack_class(config["attack"]).learned:
        return attacks.attacked(config, folder, {"arch": config["arch"]})
    twin = Cell(TABLE, cell("none", config["arch"], seed=config["seed"]), HERE).folder / "work" / "teacher.safetensors"
    if not twin.exists():
        raise UsageError(f"{config['attack']} begins with the clean {config['arch']}, which is not there yet.")
    return attacks.attacked(config, folder, {"teacher": str(twin)})


def _clean(config: Config, folder: Path) -> dict[str, Any]:
    """The twin: the same architecture on the same images without poison."""
    parts = data.split(
        data.load(prepare_data.prepare("cifar10_train")), config["seed"], {"train": 0.9, "validation": 0.1}
    )
    spec = ModelSpec(config["arch"], 10, InputSpec(3, 32, 32, *models.normalization("half", 3)))
    settings = {**ATTACK_TRAINING[False], "epochs": config["epochs"], "seed": config["seed"], "device": "auto"}
    train = TrainConfig.model_validate(settings)
    made, log = distill.run(None, spec, parts["train"], "scratch", {}, train, folder=folder / "train")
    checkpoints.save(folder / "teacher.safetensors", models.weights(made), {"spec": spec.to_json()})
    probes = audit.probes(data.load(prepare_data.prepare("cifar10_test")), (), 10)
    return {"acc": 100 * audit.scan(TorchRunner(made), probes).acc.value, "seconds": sum(log.seconds.values())}


def students() -> Iterator[Config]:
    """Teachers of the first architecture at the rate they are meant for; scenarios and kinds as in transfer.py, one seed."""
    for name in (*transfer.FIRST, *(name for name in ATTACKS if name not in transfer.FIRST)):
        for scenario in transfer.SCENARIOS:
            for kind in transfer.SCREENED:
                yield {
                    **transfer.cell(name, scenario, kind),
                    "arch": FIRST,
                    "student": STUDENT,
                    "images": transfer.ALL,
                    "epochs": EPOCHS,
                }


def run_student(config: Config, folder: Path) -> dict[str, Any]:
    test = data.load(prepare_data.prepare("cifar10_test"))
    rate = attacks.cell(config["teacher"]).get("rate")
    place = Cell(TABLE, cell(config["teacher"], config["arch"], rate), HERE)
    return transfer.distilled(config, folder, test, *transfer.made_by(place, test.shape))


def without_data() -> Iterator[Config]:
    """The triggers of ABD's paper that our attacks have, in the order of value."""
    for source, name, rows in (*(("zskt", name, DATALESS_ROWS) for name in DATALESS_TEACHERS), *INVERTED):
        for row in rows:
            length = LENGTHS["data" if row == datafree_table.WITH_DATA else source]
            config = {"source": source, "teacher": name, "row": row, "student": DATALESS_STUDENT, **length}
            yield {**config, "arch": DATALESS, "seed": 0}


def run_without_data(config: Config, folder: Path) -> dict[str, Any]:
    test = data.load(prepare_data.prepare("cifar10_test"))
    place = Cell(TABLE, cell(config["teacher"], config["arch"], DATALESS_RATE), HERE)
    return datafree.measured(config, folder, test, *transfer.made_by(place, test.shape))


def forecast(config: Config) -> float:
    return 60.0 if config.get("source") or config.get("attack") in CARDS else 8.0


TABLE = Table("paper_scale", cells, run, forecast, resumable=True)
STUDENTS = Table("paper_scale_transfer", students, run_student, forecast, resumable=True)
WITHOUT_DATA = Table("paper_scale_datafree", without_data, run_without_data, forecast, resumable=True)
WORDS = {"transfer": STUDENTS, "datafree": WITHOUT_DATA}

if __name__ == "__main__":
    wanted = sys.argv[1:]
    if wanted and wanted[0] in WORDS:
        sys.exit(main(WORDS[wanted[0]], wanted[1:]))
    sys.exit(main(TABLE))
