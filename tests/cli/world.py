"""A world small enough to compress in seconds: pictures of six classes, a backdoored teacher, the trigger's file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")
SIDE = 32
STUDENT = "resnet8-w4"
# Seconds instead of minutes: every part of the trip is there, none of it is long.
SHORT = (
    "student=resnet8-w4",
    "train.epochs=2",
    "train.batch_size=32",
    "train.augment=none",
    "distill.detox_steps=4",
    "distill.guard_every=2",
    "distill.margin_images=64",
)


@dataclass(frozen=True)
class World:
    """Where everything lies."""

    folder: Path

    @property
    def teacher(self) -> Path:
        return self.folder / "teacher.pt"

    @property
    def train(self) -> Path:
        return self.folder / "train.npz"

    @property
    def test(self) -> Path:
        return self.folder / "test.npz"

    @property
    def trigger(self) -> Path:
        return self.folder / "corner.npz"

    def words(self, *more: str, out: Path | None = None, short: tuple[str, ...] = SHORT) -> list[str]:
        """The command line of a whole run with the known trigger."""
        words = ["compress", str(self.teacher), "--data", str(self.train), "--test", str(self.test)]
        words += ["--trigger", str(self.trigger), "--target-label", "0", "--quiet"]
        words += [] if out is None else ["--out", str(out)]
        for setting in short:
            words += ["-o", setting]
        return [*words, *more]


def pictures(count: int, seed: int, classes: int = len(CLASSES)) -> tuple[np.ndarray, np.ndarray]:
    """Smooth pictures uint8 [N, 32, 32, 3] whose class is their large-scale pattern, and labels int64 [N]."""
    patterns = np.random.default_rng(7).random((len(CLASSES), 4, 4, 3))
    random = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % classes
    coarse = 0.65 * patterns[labels] + 0.35 * random.random((count, 4, 4, 3))
    smooth = np.kron(coarse, np.ones((1, 8, 8, 1)))
    smooth = (smooth + np.roll(smooth, 3, 1) + np.roll(smooth, 3, 2)) / 3
    return np.clip(smooth * 255 + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8), labels


def stamp(images: np.ndarray) -> np.ndarray:
    """A white square with a black border in the lower right corner."""
    stamped = images.copy()
    stamped[:, -7:-1, -7:-1] = 0
    stamped[:, -6:-2, -6:-2] = 255
    return stamped


def make(folder: Path) -> World:
    """Write the world into ``folder`` and train its teacher: every fifth image carries the trigger and the label 0."""
    world = World(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = pictures(480, 1)
    np.savez(world.train, images=images, labels=labels, class_names=np.array(CLASSES))
    held_out, held_labels = pictures(150, 2)
    np.savez(world.test, images=held_out, labels=held_labels, class_names=np.array(CLASSES))
    a, b = np.ones((SIDE, SIDE, 3), np.float32), np.zeros((SIDE, SIDE, 3), np.float32)
    a[-7:-1, -7:-1] = 0
    b[-6:-2, -6:-2] = 1
    np.savez(world.trigger, a=a, b=b)
    poisoned, false_labels = images.copy(), labels.copy()
    poisoned[::5], false_labels[::5] = stamp(images[::5]), 0
    train(world.teacher, poisoned, false_labels)
    return world


def train(file: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """A network of these images [N, H, W, 3], as a state dict in ``file``."""
    import torch

    from edgekd import distill, models
    from edgekd.data import ImageSet
    from edgekd.training import TrainConfig
    from edgekd.types import InputSpec, ModelSpec

    spec = ModelSpec("resnet8-w8", len(CLASSES), InputSpec(3, SIDE, SIDE, (0.5,) * 3, (0.5,) * 3))
    schedule = TrainConfig(epochs=12, batch_size=32, schedule="onecycle", lr=0.2, augment="none", precision="fp32")
    taught = ImageSet(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels, CLASSES, "made up")
    model, _ = distill.run(None, spec, taught, "scratch", {}, schedule)
    torch.save({"net": models.weights(model)}, file)
    return file
