"""RobustKD, RobustKD+ and the repairs where plain distillation carries the backdoor over, on 5 % of the clean data.

    python -m benchmarks.robustkd --minutes 60 --processes 2

A cell is a teacher and its trigger, a scenario, a row and a seed. Every row of a scenario sees the same 2,500 images with
their true labels; in the second, 2 % of them carry the trigger. Rows: scratch (whose ASR is the floor), Hinton KD,
overhaul KD, each repair of the teacher followed by overhaul KD, RobustKD on both bases, RobustKD+. The INT8 figures are
those of the ONNX file for onnxruntime. Teachers are those of benchmarks/attacks.py, which has to run first.

noise-blend is the attack that RobustKD+ is developed on. The others become cells once FROZEN names the commit that froze
its defaults, so that none of them can have had a say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import prepare_data
from benchmarks.grid import Config, Table, main
from benchmarks.transfer import KINDS, teacher_of, transfer_set
from edgekd import audit, checkpoints, data, distill, models, repair
from edgekd.data import ImageSet
from edgekd.export import onnx as onnx_writer
from edgekd.pipeline.calibration import accuracy_on, trusted
from edgekd.quantize import PtqConfig, guarded
from edgekd.runners.onnx import OnnxRunner
from edgekd.runners.torch import TorchRunner
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, Model, ModelSpec, ProbeSet

FROZEN = ""
IMAGES, EPOCHS, STUDENT, VALIDATION = 2500, 40, "resnet8", 1000
DEVELOPMENT = "noise-blend"
TEACHERS = ("leak", "adba", DEVELOPMENT, "cheatkd", "blended")
RATES = (0.0, 0.02)


@dataclass(frozen=True)
class Row:
    """How a student is made: a repair of the teacher first, if any, then a method of distillation."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    repair: str | None = None


ROWS = {
    "scratch": Row("scratch"),
    "kd": Row("kd"),
    "overhaul": Row("overhaul", KINDS["overhaul"]),
    "robustkd-plus": Row("robustkd-plus"),
    "robustkd": Row("robustkd"),
    "robustkd, logits": Row("robustkd", {"base": "logits"}),
    **{f"{name}, overhaul": Row("overhaul", KINDS["overhaul"], name) for name in repair.REPAIRS},
}


def cells() -> Iterator[Config]:
    for seed in (0, 1, 2):
        for teacher in TEACHERS if FROZEN else (DEVELOPMENT,):
            for rate in RATES:
                for row in ROWS:
                    yield {
                        "teacher": teacher,
                        "rate": rate,
                        "row": row,
                        "images": IMAGES,
                        "epochs": EPOCHS,
                        "seed": seed,
                    }


def run(config: Config, folder: Path) -> dict[str, Any]:
    test = data.load(prepare_data.prepare("cifar10_test"))
    teacher, trigger = teacher_of(config["teacher"], test)
    images, validation = _images(config["images"])
    kind = {"rate": config["rate"], "labels": "true", "kind": config["row"], "seed": config["seed"]}
    images = transfer_set(kind, images, teacher, trigger)
    row = ROWS[config["row"]]
    probes = audit.probes(test, (trigger,), teacher.spec.num_classes)
    result: dict[str, Any] = {"teacher": _figures(TorchRunner(teacher), probes)}
    if row.repair:
        teacher = _repaired(row.repair, config, teacher, images, validation, folder)
        result["repaired"] = _figures(TorchRunner(teacher), probes)
    student, log = _student(config, row, teacher, images, validation, folder)
    calibration = trusted(images, TorchRunner(student), PtqConfig().images, config["seed"])
    twin = guarded(student, calibration, PtqConfig(), accuracy_on(validation))
    onnx_writer.export(twin, folder / "model.u8s8.onnx", "u8s8", validation.images[:32])
    shipped = OnnxRunner((folder / "model.u8s8.onnx").read_bytes())
    return {
        **result,
        "frozen": FROZEN,
        "fp32": _figures(TorchRunner(student), probes),
        "int8": _figures(shipped, probes),
        "method": log.get("method", {}),
        "seconds": sum(log["seconds"].values()),
        "teacher_sha256": teacher.sha256,
    }


def _images(count: int) -> tuple[ImageSet, ImageSet]:
    """The user's training and validation images."""
    images = data.load(prepare_data.few("cifar10_train", count + VALIDATION))
    parts = data.split(
        images, 0, {"train": count / (count + VALIDATION), "validation": VALIDATION / (count + VALIDATION)}
    )
    return parts["train"], parts["validation"]


def _train(config: Config) -> TrainConfig:
    return TrainConfig(epochs=config["epochs"], schedule="onecycle", lr=0.2, seed=config["seed"], device="auto")


def _repaired(name: str, config: Config, teacher: Model, images: ImageSet, validation: ImageSet, folder: Path) -> Model:
    file = folder / "repaired.safetensors"
    if not file.exists():
        train = TrainConfig(epochs=1, seed=config["seed"], device="auto")  # the repair has a length of its own
        made, _ = repair.run(
            name, teacher, images, {}, train, folder=folder / "repair", accuracy=accuracy_on(validation)
        )
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
        _train(config),
        folder=folder / "train",
        accuracy=accuracy_on(validation),
    )
    return made, log.to_json()


def _figures(predict: Any, probes: ProbeSet) -> dict[str, float]:
    report = audit.scan(predict, probes)
    score = report.triggers[0]
    return {"acc": 100 * report.acc.value, "asr": 100 * score.asr.value, "ra": 100 * score.ra.value}


def forecast(config: Config) -> float:
    return 2.0 if config["row"] in ("scratch", "kd", "overhaul") else 4.0


TABLE = Table("robustkd", cells, run, forecast, resumable=True)

if __name__ == "__main__":
    sys.exit(main(TABLE))
