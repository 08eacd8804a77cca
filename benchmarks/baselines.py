"""Every distillation method on one CIFAR-10 and one CIFAR-100 pair of networks, and two in the settings they are for.

    python -m benchmarks.baselines --minutes 60 --processes 2
    python -m benchmarks.baselines cost      # what a step of each method costs; fails where the machine is busy: --retry

Teachers are third-party, the student is a ResNet-8. Within a scenario every row has the same images, epochs, schedule
and seeds; a few rows have one seed, which claims nothing. Methods have their defaults: their papers', chosen for larger
networks and longer schedules, or ours where the papers are silent or the row says "ours". CIFAR-100 has the weights that
papers give for CIFAR-ResNets or that set: DKD's beta, ReviewKD's, IGDM's. So this shows what they give here, not what they
can. What is claimed of a method is its paired difference to Hinton KD and to a student without a teacher, over seeds, with a 95 % interval.

Scenarios:
- cifar10, with 9,000 images, and cifar100, with 10,000. CMKD is held against DIST, and against its own constant weights.
- "small student", what DiSK is for: a ResNet-8 of a quarter of the width; "scratch, twice" has twice the epochs.
- "few calls", what Comparative KD is for: 1,000 images and as many teacher calls, and again with 250. "KD, asked once"
  keeps those outputs too; Hinton KD asks in every step.

Left out are RobustKD and its kin (robustkd), methods without a teacher (kdiga), and fine-tuning, whose student is the
teacher. KDIGA and IGDM compute in fp32, all others in bf16; they come last, except for one seed of the first pair. A
training whose loss is not finite is a result too: diverged. Every result has its method, settings and schedule.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import prepare_data
from benchmarks.attacks import clean_network
from benchmarks.baselines_table import COST, KD, SCRATCH
from benchmarks.grid import Config, Table, main
from benchmarks.main_job_table import IDLE
from benchmarks.outcomes import said, settings
from benchmarks.students import percent_right, schedule, spec_of
from edgekd import data, distill
from edgekd.data import ImageSet
from edgekd.distill.run import Around
from edgekd.errors import EnvironmentFault
from edgekd.training import Diverged, TrainConfig
from edgekd.types import Model, ModelSpec, TrainLog

STUDENT = "resnet8"
# A method's cost: so many steps in each epoch of a whole schedule, since what some do depends on how far they are.
EACH, ROUNDS, PATIENCE = 3, 2, 180.0
LAPS = ("data", "step", "backward", "optimiser")

Row = tuple[str, dict[str, Any]]  # method and settings
TRUST = {"trust_teacher": True}
ROWS: dict[str, Row] = {
    SCRATCH: ("scratch", {}),
    KD: ("kd", {}),
    "DKD": ("dkd", {}),
    "ReviewKD": ("reviewkd", {}),
    "overhaul, ours": ("overhaul", {}),
    "CRD": ("crd", {"negatives": 4096}),  # of 9,000 images; its default is 16,384 of 50,000
    "DIST": ("dist", {}),
    "FitNets": ("fitnets", {}),
    "AT": ("at", {}),
    "SP": ("sp", {}),
    "CMKD, ours": ("cmkd", {}),
    "DiSK": ("disk", {}),
    "Comparative KD, ours": ("comparative-kd", {}),
    "NST": ("nst", {}),
    "KDIGA, ours": ("kdiga", TRUST),
    "IGDM, ours": ("igdm", TRUST),
}
LAST = ("KDIGA, ours", "IGDM, ours")
# what the method cards give for CIFAR-ResNets or CIFAR-100
CIFAR100: dict[str, Row] = {
    **ROWS,
    "DKD": ("dkd", {"beta": 2.0}),
    "ReviewKD": ("reviewkd", {"beta": 0.6}),
    "IGDM, ours": ("igdm", {**TRUST, "slope_weight": 10.0}),
}
SMALL: dict[str, Row] = {
    SCRATCH: ("scratch", {}),
    KD: ("kd", {}),
    "DiSK": ("disk", {}),
    "DiSK, not censored": ("disk", {"censor": False}),
    "KD, tau 1": ("kd", {"temperature": 1.0, "alpha": 0.5}),
    "scratch, twice": ("scratch", {}),
}
FEWER: dict[str, Row] = {
    SCRATCH: ("scratch", {}),
    "Comparative KD, ours": ("comparative-kd", {}),
    "KD, asked once": ("comparative-kd", {"relation_weight": 0.0, "kd_weight": 0.9, "label_weight": 0.1}),
}
FEW: dict[str, Row] = {
    **FEWER,
    KD: ("kd", {}),
    "Comparative KD, all pairs": ("comparative-kd", {"compare": "batch"}),
    "Comparative KD and KD": ("comparative-kd", {"kd_weight": 1.0}),
    "Comparative KD, paper's labels": ("comparative-kd", {"label_loss": "differences"}),
}
ONCE = ("Comparative KD and KD", "Comparative KD, paper's labels")  # at seed 0 alone


class Scenario(NamedTuple):
    of: str
    teacher: str
    student: str
    images: int
    epochs: int
    rows: dict[str, Row]
    batch_size: int = 128
    lr: float = 0.2


WRN = "cifar10_distiller_wrn16_1.pth"
SCENARIOS = {
    "cifar10": Scenario(
        "cifar10", WRN, STUDENT, 9000, 12, {**ROWS, "CMKD, constant": ("cmkd", {"balance": "constant"})}
    ),
    "small student": Scenario("cifar10", WRN, "resnet8-w4", 9000, 16, SMALL),
    "few calls": Scenario("cifar10", WRN, STUDENT, 1000, 80, FEW),
    "few calls, 250": Scenario("cifar10", WRN, STUDENT, 250, 80, FEWER, 32, 0.05),
    "cifar100": Scenario("cifar100", "cifar100_distiller_resnet8.pth", STUDENT, 10_000, 12, CIFAR100),
}


def cells() -> Iterator[Config]:
    """All scenarios at one seed first; what costs most at the end, but for what would be missing from "every method"."""
    for seed in (0, 1, 2):
        for name, scenario in SCENARIOS.items():
            left_out = (*LAST, *(ONCE if seed else ()))
            yield from _cells(name, [row for row in scenario.rows if row not in left_out], seed)
        if seed == 0:
            yield from _cells("cifar10", LAST, seed)
    yield from _cells("cifar100", LAST, 0)
    for seed, name in itertools.product((1, 2), ("cifar10", "cifar100")):
        yield from _cells(name, LAST, seed)


def _cells(name: str, rows: Iterable[str], seed: int) -> Iterator[Config]:
    of = SCENARIOS[name]
    for row in rows:
        epochs = 2 * of.epochs if row == "scratch, twice" else of.epochs
        config = {"scenario": name, "teacher": of.teacher, "student": of.student, "row": row}
        size = {"images": of.images, "batch_size": of.batch_size, "lr": of.lr}
        yield {**config, **size, "epochs": epochs, "seed": seed}


def costs() -> Iterator[Config]:
    """Of every row of the first scenario but Hinton KD itself."""
    for config in _cells("cifar10", [row for row in ROWS if row != KD], 0):
        yield {**config, "scenario": COST, "each": EACH, "rounds": ROUNDS}


def run(config: Config, folder: Path) -> dict[str, Any]:
    if config["scenario"] == COST:
        return cost(config, *_pair(SCENARIOS["cifar10"].of, config))
    of, rows = SCENARIOS[config["scenario"]].of, SCENARIOS[config["scenario"]].rows
    teacher, spec, images = _pair(of, config)
    test = data.load(prepare_data.prepare(f"{of}_test"))
    train = schedule(config, batch_size=config["batch_size"], lr=config["lr"])
    about = {
        "teacher_acc": percent_right(teacher, test),
        "teacher_sha256": teacher.sha256,
        "settings": settings(*rows[config["row"]], train),
    }
    try:
        student, log = _trained(rows[config["row"]], teacher, spec, images, train, folder=folder / "train")
    except Diverged as error:
        return {**about, "diverged": said(error)}
    report = {key: log.method[key] for key in ("teacher_calls",) if key in log.method}
    helper = log.method.get("helper", [])[-1:]
    return {
        **about,
        "acc": percent_right(student, test),
        "report": {**report, **({"helper": helper[0]} if helper else {})},
        "seconds": sum(log.seconds.values()),
    }


def _pair(of: str, config: Config) -> tuple[Model, ModelSpec, ImageSet]:
    """Teacher, student and the images they share."""
    images = data.load(prepare_data.few(f"{of}_train", config["images"]))
    teacher = clean_network(config["teacher"], of)
    return teacher, spec_of(config["student"], images, teacher.spec.input), images


def _trained(
    row: Row, teacher: Model, spec: ModelSpec, images: ImageSet, train: TrainConfig, **more: Any
) -> tuple[Model, TrainLog]:
    (method, options), taught = row, None if row[0] == "scratch" else teacher
    return distill.run(taught, spec, images, method, options, train, **more)


def cost(config: Config, teacher: Model, spec: ModelSpec, images: ImageSet) -> dict[str, Any]:
    """Milliseconds of a step of the row and of Hinton KD, medians of rounds in turns; load: just before and just after.

    Raises EnvironmentFault where the machine is busy, so that nothing is recorded and --retry measures again.
    """
    deadline = time.monotonic() + PATIENCE
    while os.getloadavg()[0] > IDLE and time.monotonic() < deadline:  # of the cell before
        time.sleep(5)
    before, began = _load(IDLE), time.monotonic()
    wanted = {"step": (config["row"], "bf16"), "kd": (KD, "bf16")}
    if config["row"] in LAST:
        wanted["kd_fp32"] = (KD, "fp32")
    same = {"batch_size": config["batch_size"], "lr": config["lr"]}
    trains = {name: schedule(config, **same, precision=of[1]) for name, of in wanted.items()}
    taken: dict[str, list[float]] = {name: [] for name in wanted}
    for number, (name, (row, _)) in itertools.product(range(config["rounds"] + 1), wanted.items()):
        each = timed(ROWS[row], teacher, spec, images, trains[name], config["each"])
        if number:  # the first warms up
            taken[name].append(each)
    threads = torch.get_num_threads()
    own = threads * (1 - math.exp((began - time.monotonic()) / 60))  # in a mean that forgets by the minute
    return {
        "loads": [before, _load(IDLE + own)],
        "threads": threads,
        "ms": {name: 1000 * statistics.median(each) for name, each in taken.items()},
        "settings": settings(*ROWS[config["row"]], trains["step"]),
    }


def _load(most: float) -> float:
    """Of the last minute."""
    load = os.getloadavg()[0]
    if load > most:
        raise EnvironmentFault(f"The machine is busy (load {load:.1f}, at most {most:.1f}): --retry when it is idle.")
    return round(load, 2)


def timed(row: Row, teacher: Model, spec: ModelSpec, images: ImageSet, train: TrainConfig, each: int) -> float:
    """Seconds of a step: ``each`` steps in every epoch of a row, among all its images, whose number may count."""
    few = Around(lambda method: method, each, {"timed": each})
    log = _trained(row, teacher, spec, images, train, around=few)[1]
    return sum(log.seconds.get(part, 0.0) for part in LAPS) / log.steps


# of Hinton KD's; comparative-kd asks its teacher once
COSTS = {"scratch": 0.6, "kd": 1.0, "comparative-kd": 0.7, "kdiga": 4.0, "igdm": 3.0, "reviewkd": 1.8, "nst": 1.6, "overhaul": 1.5, "crd": 1.3}  # fmt: skip


def forecast(config: Config) -> float:
    """Minutes on a core of its own."""
    if config["scenario"] == COST:
        return 1.5 + 0.25 * COSTS.get(ROWS[config["row"]][0], 1.2)
    scenario = SCENARIOS[config["scenario"]]
    ratio = COSTS.get(scenario.rows[config["row"]][0], 1.2)
    return float(0.5 + ratio * 3.0 * config["images"] * config["epochs"] / 180_000)


TABLE = Table("baselines", cells, run, forecast, resumable=True)
TIMES = Table("baselines", costs, run, forecast)

if __name__ == "__main__":
    wanted = sys.argv[1:]
    if wanted[:1] == [COST]:
        sys.exit(main(TIMES, wanted[1:]))
    sys.exit(main(TABLE))
