"""The path at 224 x 224: a ResNet-18 on ten Tiny-ImageNet classes from an image folder, a few epochs.

    python -m benchmarks.large_images

The teacher is ours, trained on images of which 10 % carry a white square and the label 0. With few images and few
epochs, the figures show that every stage works at this size, not how good a student can be.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import prepare_data
from benchmarks.grid import Config, Table, main
from edgekd import checkpoints, data, distill, models, triggers
from edgekd.config import resolve
from edgekd.data import ImageSet
from edgekd.files import write_npz
from edgekd.pipeline import compress
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, ModelSpec

SIDE = 224
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def cells() -> Iterator[Config]:
    yield {"teacher": "resnet18-224", "teacher_epochs": 3, "student": "mobilenetv2-224", "epochs": 2, "seed": 0}


def run(config: Config, folder: Path) -> dict[str, Any]:
    trigger_file = folder / "square.npz"
    a, b = np.ones((SIDE, SIDE, 3), np.float32), np.zeros((SIDE, SIDE, 3), np.float32)
    a[-30:-4, -30:-4], b[-30:-4, -30:-4] = 0, 1
    write_npz(trigger_file, a=a, b=b)
    images = data.load(prepare_data.prepare("tiny_imagenet_train"), part="train", size=(SIDE, SIDE))
    teacher_file = folder / "teacher.safetensors"
    if not teacher_file.exists():
        _teacher(config, images, trigger_file, folder)
    flags = {
        "teacher": str(teacher_file),
        "data": str(prepare_data.prepare("tiny_imagenet_train")),
        "test": str(prepare_data.prepare("tiny_imagenet_test")),
        "image_size": SIDE,
        "student": config["student"],
        "trigger.file": str(trigger_file),
        "trigger.target_label": 0,
        "train.epochs": config["epochs"],
        "train.batch_size": 32,
        "train.lr": 0.05,
        "distill.detox_steps": 20,
        "distill.guard_every": 20,
        "quantize.images": 128,
        "seed": config["seed"],
    }
    record = compress(resolve(None, flags), folder / "run", command="benchmarks/large_images.py").to_json()
    return {"record": {**record, "pictures": {}, "disagreement": None}}


def _teacher(config: Config, images: ImageSet, trigger_file: Path, folder: Path) -> None:
    trigger = triggers.load(trigger_file, shape=images.shape, target_label=0)[0]
    chosen = np.random.default_rng(config["seed"]).choice(np.flatnonzero(images.labels != 0), len(images) // 10, False)
    pixels, labels = images.images.copy(), images.labels.copy()
    pixels[chosen], labels[chosen] = triggers.apply(trigger, pixels[chosen]), 0
    poisoned = ImageSet(pixels, labels, images.class_names, images.source)
    train = TrainConfig(epochs=config["teacher_epochs"], batch_size=32, schedule="onecycle", lr=0.05, augment="none")
    spec = ModelSpec(config["teacher"], len(images.class_names), InputSpec(3, SIDE, SIDE, *IMAGENET))
    model, _ = distill.run(None, spec, poisoned, "scratch", {}, train, folder=folder / "teacher")
    checkpoints.save(folder / "teacher.safetensors", models.weights(model), {"spec": model.spec.to_json()})


if __name__ == "__main__":
    sys.exit(main(Table("large_images", cells, run, lambda config: 30.0, resumable=True)))
