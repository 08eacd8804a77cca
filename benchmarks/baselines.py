"""Every distillation method on one CIFAR-10 and one CIFAR-100 pair of networks, and two methods in the settings they were made for.

    python -m benchmarks.baselines --minutes 60 --processes 2

Teachers are third-party, the student is a ResNet-8. Within a scenario every row has the same images, epochs, schedule and
seeds; methods have their defaults, which were their papers' for larger networks and longer schedules, so this says what they
give here, not what they can. What is claimed of a method is its paired difference to Hinton KD and to a student without a
teacher, over seeds, with a 95 % interval. A cell also times a few steps of its method and of Hinton KD, in turns. KDIGA and IGDM
compute in fp32, which is part of what they cost, all others in bf16.

Scenarios: cifar10 and cifar100, 9,000 images each; "small student", what DiSK is for, a ResNet-8 of a quarter of the width, where
"scratch, twice" has twice the epochs; "few calls", what Comparative KD is for, 1,000 images and as many teacher calls ("KD, asked
once" keeps those outputs too; Hinton KD asks in every step). Left out: RobustKD and its kin (robustkd), what is trained
without a teacher (kdiga), fine-tuning (its student is the teacher). Paper-scale rows are on the GPU list.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import prepare_data
from benchmarks.attacks import clean_network
from benchmarks.baselines_table import KD, SCRATCH
from benchmarks.grid import Config, Table, main
from benchmarks.students import percent_right, schedule, spec_of, user_images
from edgekd import data, distill
from edgekd.data import ImageSet
from edgekd.distill.run import Around
from edgekd.training import TrainConfig
from edgekd.types import Model, ModelSpec, TrainLog

IMAGES, EPOCHS, STUDENT = 9000, 16, "resnet8"
TIMED_STEPS, ROUNDS = 6, 3

Row = tuple[str, dict[str, Any]]  # method and settings
TRUST = {"trust_teacher": True}
ROWS: dict[str, Row] = {
    SCRATCH: ("scratch", {}),
    KD: ("kd", {}),
    "DKD": ("dkd", {}),
    "ReviewKD": ("reviewkd", {}),
    "overhaul": ("overhaul", {}),
    "CRD": ("crd", {"negatives": 4096}),  # of 9,000 images; its default is 16,384 of 50,000
    "DIST": ("dist", {}),
    "FitNets": ("fitnets", {}),
    "AT": ("at", {}),
    "SP": ("sp", {}),
    "CMKD": ("cmkd", {}),
    "DiSK": ("disk", {}),
    "Comparative KD": ("comparative-kd", {}),
    "NST": ("nst", {}),
    "KDIGA": ("kdiga", TRUST),
    "IGDM": ("igdm", TRUST),
}
LOW = "KD, tau 1"
SMALL: dict[str, Row] = {
    SCRATCH: ("scratch", {}),
    KD: ("kd", {}),
    "DiSK": ("disk", {}),
    "DiSK, not censored": ("disk", {"censor": False}),
    LOW: ("kd", {"temperature": 1.0, "alpha": 0.5}),
    "scratch, twice": ("scratch", {}),
}
FEW: dict[str, Row] = {
    SCRATCH: ("scratch", {}),
    KD: ("kd", {}),
    "Comparative KD": ("comparative-kd", {}),
    "Comparative KD, all pairs": ("comparative-kd", {"compare": "batch"}),
    "Comparative KD and KD": ("comparative-kd", {"kd_weight": 1.0}),
    "KD, asked once": ("comparative-kd", {"relation_weight": 0.0, "kd_weight": 0.9, "label_weight": 0.1}),
}
# scenario -> data, teacher, student, images, epochs, rows
SCENARIOS: dict[str, tuple[str, str, str, int, int, dict[str, Row]]] = {
    "cifar10": ("cifar10", "cifar10_distiller_wrn16_1.pth", STUDENT, IMAGES, EPOCHS, ROWS),
    "cifar100": ("cifar100", "cifar100_distiller_resnet32.pth", STUDENT, IMAGES, EPOCHS, ROWS),
    "small student": ("cifar10", "cifar10_distiller_wrn16_1.pth", "resnet8-w4", IMAGES, EPOCHS, SMALL),
    "few calls": ("cifar10", "cifar10_distiller_wrn16_1.pth", STUDENT, 1000, 80, FEW),
}


def cells() -> Iterator[Config]:
    """All scenarios at one seed first."""
    for seed in (0, 1, 2):
        for scenario in ("cifar10", "small student", "few calls", "cifar100"):
            yield from _cells(scenario, SCENARIOS[scenario][-1], seed)


def _cells(scenario: str, rows: Iterable[str], seed: int) -> Iterator[Config]:
    _, teacher, student, images, epochs, _ = SCENARIOS[scenario]
    for row in rows:
        own = 2 * epochs if row == "scratch, twice" else epochs
        config = {"scenario": scenario, "teacher": teacher, "student": student, "row": row}
        yield {**config, "images": images, "epochs": own, "seed": seed}


def run(config: Config, folder: Path) -> dict[str, Any]:
    of, *_, rows = SCENARIOS[config["scenario"]]
    images, validation = user_images(config["images"], of)
    test = data.load(prepare_data.prepare(f"{of}_test"))
    teacher = clean_network(config["teacher"], of)
    spec = spec_of(config["student"], images, teacher.spec.input)
    student, log = _trained(rows[config["row"]], teacher, spec, images, schedule(config), folder / "train")
    report = {key: value for key, value in log.method.items() if key in ("teacher_calls",)}
    helper = log.method.get("helper", [])[-1:]
    return {
        "acc": percent_right(student, test),
        "validation": percent_right(student, validation),
        "teacher_acc": percent_right(teacher, test),
        "teacher_sha256": teacher.sha256,
        "cost": _cost(rows, config, teacher, spec, images),
        "report": {**report, **({"helper": helper[0]} if helper else {})},
        "seconds": sum(log.seconds.values()),
    }


def _trained(
    row: Row,
    teacher: Model,
    spec: ModelSpec,
    images: ImageSet,
    train: TrainConfig,
    folder: Path | None = None,
    **more: Any,
) -> tuple[Model, TrainLog]:
    (method, options), taught = row, None if row[0] == "scratch" else teacher
    return distill.run(taught, spec, images, method, options, train, folder=folder, **more)


def timed(row: Row, teacher: Model, spec: ModelSpec, images: ImageSet, train: TrainConfig) -> TrainLog:
    """A few steps of a row among all its images, since what some methods do in a step grows with their number."""
    few = Around(lambda method: method, TIMED_STEPS, {"timed": TIMED_STEPS})
    return _trained(row, teacher, spec, images, train.model_copy(update={"epochs": 1}), around=few)[1]


def _cost(rows: dict[str, Row], config: Config, teacher: Model, spec: ModelSpec, images: ImageSet) -> dict[str, float]:
    """Seconds of a step of the row and of Hinton KD, and their ratio: medians of rounds in turns, preparation apart."""
    seconds: dict[str, list[float]] = {config["row"]: [], KD: []}
    for number in range(ROUNDS + 1):
        for name in seconds:
            log = timed(rows[name], teacher, spec, images, schedule(config))
            if number:  # the first warms up
                seconds[name].append(sum(v for part, v in log.seconds.items() if part != "prepare") / log.steps)
    each, beside = (statistics.median(seconds[name]) for name in (config["row"], KD))
    return {"step": each, "kd_step": beside, "ratio": each / beside}


COSTS = {"scratch": 0.6, "kdiga": 4.0, "igdm": 3.0, "reviewkd": 1.8, "nst": 1.6, "overhaul": 1.5, "crd": 1.3}


def forecast(config: Config) -> float:
    of, *_, rows = SCENARIOS[config["scenario"]]
    ratio = COSTS.get(rows[config["row"]][0], 1.2)
    steps = config["images"] * config["epochs"] / 180_000  # 3 and 5.5 minutes of Hinton KD
    return float(ratio * ({"cifar10": 3.0, "cifar100": 5.5}[of] * steps + 0.5) + 0.5)


TABLE = Table("baselines", cells, run, forecast, resumable=True)

if __name__ == "__main__":
    sys.exit(main(TABLE))
