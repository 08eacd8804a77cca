"""How the weight of the feature distance should fall over the epochs: chosen on images that nobody trained on.

    python -m benchmarks.feature_schedule

A teacher of unknown origin may be over-fitted, and was perhaps trained on the very images that a user distils with.
What learns from its features then falls behind a student without a teacher, and a validation split of the same images
does not show it. So here a clean WRN-16-1 of our own is over-fitted on purpose to half of CIFAR-10's training images,
its students are trained on the same half, and accuracy is measured on 10,000 further *training* images that none of
them saw. Neither test images nor triggers are used.

With fewer images a student needs its teacher more. So there are rows of 10,000 and 2,500 images of the same half,
which show as many images in all, then other batch sizes and more epochs.

The rows of the third-party teachers ask a second question: should the distance be relative to the target's own size?
They have 15,000 images for the student and the same 10,000 to judge it. The makers of these teachers trained them on
all 50,000, so their own accuracy here says nothing, and a student that imitates an over-fitted one closely is
flattered.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import prepare_data
from benchmarks.grid import Config, Table, main
from edgekd import checkpoints, data, distill, models
from edgekd.config import PROFILES, resolve
from edgekd.errors import EnvironmentFault
from edgekd.files import lock
from edgekd.pipeline import intake
from edgekd.pipeline.calibration import accuracy_on
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, Model, ModelSpec

INPUT = InputSpec(3, 32, 32, (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
TRAIN, HELD_OUT, FEW = 25_000, 10_000, 15_000
FEWER = {10_000: 10, 2_500: 40}  # images, and epochs
# Other ways to train on 2,500: smaller batches at a rate that falls with their size or its root, and more epochs.
SCHEDULES: tuple[Config, ...] = (
    {"epochs": 40, "batch_size": 32, "lr": 0.05},
    {"epochs": 40, "batch_size": 32, "lr": 0.1},
    {"epochs": 100},
)
PLAIN, RELATIVE, AUTO = "overhaul, cosine", "overhaul, cosine, relative", "overhaul, cosine, auto"
# auto is the paper's distance for the WRN, which has norms, and the relative one for the StripNet, all of whose sites are loud
THIRD_PARTY = {
    "cifar10_stripnet_kisd_blend_8to3.pth": (PLAIN, RELATIVE),
    "cifar10_wrn16-1_abl_grid_t0.tar": (PLAIN, RELATIVE),
    "cifar10_cnn_aisb_checker_t0.pth": (PLAIN, RELATIVE, AUTO),
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "scratch": ("scratch", {}),
    "kd": ("kd", {}),
    **{f"overhaul, {fade}": ("overhaul", {"fade": fade, "scale": "none"}) for fade in ("none", "cosine")},
}
SCALES = {RELATIVE: "target", AUTO: "auto"}


def cells() -> Iterator[Config]:
    for seed in (0, 1, 2):
        for images, epochs in FEWER.items():
            few = {"teacher_epochs": 30, "images": images, "epochs": epochs, "student": "resnet14"}
            yield from ({"row": row, "seed": seed, **few} for row in METHODS if row != "kd")
        for schedule in SCHEDULES:
            few = {"teacher_epochs": 30, "images": 2_500, **schedule, "student": "resnet14"}
            yield from ({"row": row, "seed": seed, **few} for row in ("scratch", "overhaul, none"))
    for seed in (0, 1, 2):
        for teacher, rows in THIRD_PARTY.items():
            for row in rows:
                yield {"row": row, "seed": seed, "teacher": teacher, "images": FEW, "student": "resnet14"}
        yield {"row": "scratch", "seed": seed, "teacher": None, "images": FEW, "student": "resnet14"}
        for row in METHODS:
            yield {"row": row, "seed": seed, "teacher_epochs": 30, "images": TRAIN, "student": "resnet14"}


def run(config: Config, folder: Path) -> dict[str, Any]:
    images = data.load(prepare_data.prepare("cifar10_train"))
    order = np.random.default_rng(0).permutation(len(images.labels))
    mine, held_out = images.subset(order[: config["images"]]), images.subset(order[TRAIN : TRAIN + HELD_OUT])
    scaled = {"fade": "cosine", "scale": SCALES.get(config["row"])}
    method, options = METHODS.get(config["row"], ("overhaul", scaled))
    own = {key: config[key] for key in ("epochs", "batch_size", "lr") if key in config}
    train = TrainConfig.model_validate({**PROFILES["fast"]["train"], **own, "seed": config["seed"]})
    whole = images.subset(order[:TRAIN])
    source = None if method == "scratch" else _teacher(config, whole, folder.parent.parent / "teacher.safetensors")
    student, log = distill.run(
        source, ModelSpec(config["student"], 10, INPUT), mine, method, options, train, folder=folder / "train"
    )
    return {
        "acc": accuracy_on(held_out)(student.module),
        "teacher_acc": None if source is None else accuracy_on(held_out)(source.module),
        "teacher_acc_train": None if source is None else accuracy_on(mine)(source.module),
        "last": log.history[-1],
    }


def _teacher(config: Config, images: Any, file: Path) -> Model:
    if "teacher" in config:
        path = prepare_data.shared_folder() / "checkpoints" / config["teacher"]
        return intake.load_teacher(resolve(None, {"teacher": str(path), "data": "-"}), images.subset(range(2000)))[0]
    spec = ModelSpec("wrn-16-1", 10, INPUT)
    while not file.exists():  # the first cell that wants it trains it, the others wait
        with contextlib.suppress(EnvironmentFault), lock(file.parent / "teacher"):
            if not file.exists():
                _train(spec, config, images, file)
        time.sleep(1)
    return models.build(spec, checkpoints.load(file).tensors)


def _train(spec: ModelSpec, config: Config, images: Any, file: Path) -> None:
    train = TrainConfig.model_validate(
        {**PROFILES["fast"]["train"], "epochs": config["teacher_epochs"], "augment": "none", "seed": 100}
    )
    made, _ = distill.run(None, spec, images, "scratch", {}, train, folder=file.parent / "teacher")
    checkpoints.save(file, models.weights(made), {"what": "a teacher over-fitted on purpose"})


if __name__ == "__main__":
    sys.exit(main(Table("feature_schedule", cells, run, lambda config: 4.0, resumable=True)))
