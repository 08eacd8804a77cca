"""RobustKD, RobustKD+ and the repairs where plain distillation carries the backdoor over, on 5 % of the clean data.

    python -m benchmarks.robustkd --minutes 60 --processes 2

A cell is a teacher and its trigger, a scenario, a row and a seed. Every row of a scenario sees the same 2,500 images with
their true labels; in the second, 2 % of them carry the trigger. Rows: scratch (whose ASR is the floor), Hinton KD,
overhaul KD, both (RobustKD+ without its four parts: its base), each repair of the teacher followed by overhaul KD, RobustKD on both bases, RobustKD+; then these two with
parts taken away. The INT8 figures are those of the ONNX file for onnxruntime. Teachers are those of
benchmarks/attacks.py, which has to run first; the clean one is third-party, and meets noise-blend's trigger.

RobustKD+ was developed on noise-blend, and leak has had a say: a first frozen version copied outputs only and met leak at one
seed, where the controls showed that features give more ACC. FROZEN is the second; ADBA-like has leak's mechanism, so the
attacks that it had never met are cheatkd and blended. A further 1,000 labelled images guard and choose where a row does
that (RobustKD, ANP, all rows' INT8); most of the images are among those that the teachers were trained on.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import prepare_data
from benchmarks.attacks import START, clean_network
from benchmarks.grid import Config, Table, main
from benchmarks.students import figures, figures_of_teacher, schedule, user_images
from benchmarks.transfer import KINDS, teacher_of, transfer_set
from edgekd import audit, checkpoints, data, distill, models, repair
from edgekd.data import ImageSet
from edgekd.export import onnx as onnx_writer
from edgekd.pipeline.calibration import accuracy_on, trusted
from edgekd.quantize import PtqConfig, guarded
from edgekd.runners.onnx import OnnxRunner
from edgekd.runners.torch import TorchRunner
from edgekd.training import TrainConfig
from edgekd.training.device import resolve_device
from edgekd.training.method import Accuracy
from edgekd.types import InputSpec, Model, ModelSpec

FROZEN = "5f9d9bd7bc534706d5f137358f3bcf79218bc1c0"
# What makes RobustKD+; a test holds what these files do against that commit.
FROZEN_FILES = (
    *(f"edgekd/distill/{name}.py" for name in ("robustkd_plus", "overhaul", "features", "kd", "base", "warmup")),
    *(f"edgekd/losses/{name}.py" for name in ("features", "logits")),
    "edgekd/perturb/universal.py",
)
IMAGES, EPOCHS, STUDENT = 2500, 40, "resnet8"
DEVELOPMENT = "noise-blend"
CLEAN = "clean"
PAIR, FURTHER = ("leak", DEVELOPMENT), ("cheatkd", "blended", "adba")
ALL_IMAGES, FEW_EPOCHS = 45_000, 20
RATES = (0.0, 0.02)


@dataclass(frozen=True)
class Row:
    """How a student is made: a repair of the teacher first, if any, then a method of distillation.

    longer: times the epochs of the other rows; 2 costs about what RobustKD+ does.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    repair: str | None = None
    longer: int = 1


UNDEFENDED = {"agree": False, "views": 0, "share": 0.0, "wash": 0.0}
ROWS = {
    "scratch": Row("scratch"),
    "kd": Row("kd"),
    "overhaul": Row("overhaul", KINDS["overhaul"]),
    "kd and overhaul": Row("robustkd-plus", UNDEFENDED),
    "robustkd-plus": Row("robustkd-plus"),
    "robustkd": Row("robustkd"),
    "robustkd, logits": Row("robustkd", {"base": "logits"}),
}
REPAIRED = {f"{name}, overhaul": Row("overhaul", KINDS["overhaul"], name) for name in repair.REPAIRS}
LOGITS = {"base": "logits"}
PARTS = {
    "robustkd-plus, outputs only": Row("robustkd-plus", LOGITS),
    "robustkd-plus, features only": Row("robustkd-plus", {"base": "features"}),
    "robustkd-plus, no agreement": Row("robustkd-plus", {"agree": False}),
    "robustkd-plus, no views": Row("robustkd-plus", {"views": 0}),
    "robustkd-plus, no perturbations": Row("robustkd-plus", {"share": 0.0}),
    "robustkd-plus, any perturbation": Row("robustkd-plus", {"keep": 0.0}),
    "robustkd-plus, teacher to the end": Row("robustkd-plus", {"wash": 0.0}),
    "gate, robustkd-plus": Row("robustkd-plus", {}, "gate"),
    "scratch, twice as long": Row("scratch", longer=2),
    "overhaul, twice as long": Row("overhaul", KINDS["overhaul"], longer=2),
    "kd and overhaul, twice as long": Row("robustkd-plus", UNDEFENDED, longer=2),
    "robustkd, 2,000 steps": Row("robustkd", {"detox_steps": 2000}),
    "robustkd, logits, 2,000 steps": Row("robustkd", {**LOGITS, "detox_steps": 2000}),
    "robustkd, logits, permuted": Row("robustkd", {**LOGITS, "permuted": True}),
    "robustkd, logits, CE only": Row("robustkd", {**LOGITS, "lambda_f": 0.0}),
    "robustkd, logits, L_f only": Row("robustkd", {**LOGITS, "detox_ce": 0.0}),
    "robustkd, logits, one site": Row("robustkd", {**LOGITS, "detox_sites": 1}),
    "robustkd, logits, two sites": Row("robustkd", {**LOGITS, "detox_sites": 2}),
    **{
        f"robustkd, logits, tau {tau:g}, lambda {weight:g}": Row("robustkd", {**LOGITS, "tau": tau, "lambda_f": weight})
        for tau in (0.2, 0.5, 0.9)
        for weight in (0.1, 1.0, 5.0)
        if (tau, weight) != (0.2, 0.1)  # the default
    },
}
EVERY = {**ROWS, **REPAIRED, **PARTS}


def cells() -> Iterator[Config]:
    """In the order of value."""
    seeds = (0, 1, 2)
    yield from _cells(PAIR, RATES, ROWS, seeds)
    yield from _cells(PAIR, RATES, REPAIRED, seeds)
    yield from _cells((CLEAN,), (0.0,), ("scratch", "kd", "kd and overhaul", "robustkd", "robustkd-plus"), seeds)
    for teacher, rate in (("leak", 0.0), (DEVELOPMENT, 0.02)):  # where plain distillation carries the backdoor over
        yield from _cells((teacher,), (rate,), PARTS, (0,))
    yield from _cells(FURTHER, RATES, ROWS, seeds)
    rows = ("scratch", "kd", "overhaul", "kd and overhaul", "robustkd", "robustkd-plus")
    yield from _cells(("leak",), (0.0,), rows, (0,), images=ALL_IMAGES, epochs=FEW_EPOCHS)


def _cells(
    teachers: Iterable[str],
    rates: Iterable[float],
    rows: Iterable[str],
    seeds: Iterable[int],
    images: int = IMAGES,
    epochs: int = EPOCHS,
) -> Iterator[Config]:
    for seed, teacher, rate, row in itertools.product(seeds, teachers, rates, rows):
        yield {"teacher": teacher, "rate": rate, "row": row, "images": images, "epochs": epochs, "seed": seed}


def run(config: Config, folder: Path) -> dict[str, Any]:
    test = data.load(prepare_data.prepare("cifar10_test"))
    clean = config["teacher"] == CLEAN
    teacher, trigger = teacher_of(DEVELOPMENT if clean else config["teacher"], test)
    teacher = clean_network(START) if clean else teacher
    images, validation = user_images(config["images"])
    kind = {"rate": config["rate"], "labels": "true", "kind": config["row"], "seed": config["seed"]}
    images = transfer_set(kind, images, teacher, trigger)
    row = EVERY[config["row"]]
    probes = audit.probes(test, (trigger,), teacher.spec.num_classes)
    measured = figures_of_teacher(teacher, probes, folder.parent.parent / "figures")
    result: dict[str, Any] = {"teacher": measured, "teacher_sha256": teacher.sha256}
    calibration = trusted(images, TorchRunner(teacher), PtqConfig().images, config["seed"])
    if row.repair:
        teacher = _repaired(row.repair, config, teacher, images, validation, folder)
        result["repaired"] = figures(TorchRunner(teacher), probes)
    student, log = _student(config, row, teacher, images, validation, folder)
    twin = guarded(student, calibration, PtqConfig(), accuracy_on(validation))
    onnx_writer.export(twin, folder / "model.u8s8.onnx", "u8s8", validation.images[:32])
    shipped = OnnxRunner((folder / "model.u8s8.onnx").read_bytes())
    return {
        **result,
        "frozen": FROZEN,
        "fp32": figures(TorchRunner(student), probes),
        "int8": figures(shipped, probes),
        "method": log.get("method", {}),
        "seconds": sum(log["seconds"].values()),
    }


def _repaired(name: str, config: Config, teacher: Model, images: ImageSet, validation: ImageSet, folder: Path) -> Model:
    file = folder / "repaired.safetensors"
    if not file.exists():
        train = TrainConfig(epochs=1, seed=config["seed"], device="auto")  # the repair has a length of its own
        made, _ = repair.run(name, teacher, images, {}, train, folder=folder / "repair", accuracy=_accuracy(validation))
        checkpoints.save(file, models.weights(made), {"spec": teacher.spec.to_json()})
    return models.build(teacher.spec, checkpoints.load(file).tensors)


def _student(
    config: Config, row: Row, teacher: Model, images: ImageSet, validation: ImageSet, folder: Path
) -> tuple[Model, dict[str, Any]]:
    mean, std = models.student_normalization(teacher.spec.input)
    spec = ModelSpec(config.get("student", STUDENT), 10, InputSpec(3, 32, 32, mean, std))
    made, log = distill.run(
        None if row.method == "scratch" else teacher,
        spec,
        images,
        row.method,
        row.options,
        schedule(config, epochs=config["epochs"] * row.longer),
        folder=folder / "train",
        accuracy=_accuracy(validation),
    )
    return made, log.to_json()


def _accuracy(validation: ImageSet) -> Accuracy:
    """Of networks where they train."""
    return accuracy_on(validation, str(resolve_device("auto")))


def forecast(config: Config) -> float:
    row = EVERY[config["row"]]
    plain = row.method in ("scratch", "kd", "overhaul") and row.repair is None
    each = row.longer * (2.0 if plain else 4.0)
    return float(each * config["images"] * config["epochs"] / (IMAGES * EPOCHS))


TABLE = Table("robustkd", cells, run, forecast, resumable=True)

if __name__ == "__main__":
    sys.exit(main(TABLE))
