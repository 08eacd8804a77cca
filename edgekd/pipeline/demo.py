"""The demo's inputs: real digits, a teacher that we backdoor ourselves, a transfer set with a trace of the trigger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from .. import checkpoints, distill, models
from .. import triggers as trigger_box
from ..data import ImageSet
from ..errors import UsageError
from ..files import write_npz
from ..training import Progress, TrainConfig
from ..types import InputSpec, ModelSpec, Trigger

SIDE = 32
TARGET_LABEL = 0
POISONING_RATE = 0.10  # of the teacher's training images, relabelled to the target
# Of the transfer images, labels untouched. With 2 % it hangs on rounding whether Hinton KD hands the trigger on.
TRANSFER_RATE = 0.05
TEACHER = "wrn-16-1"
TEACHER_EPOCHS = 12
OVERRIDES = (
    "train.epochs=13",
    "train.batch_size=64",
    "train.augment=crop",
    "student=resnet8",
    "distill.detox_steps=100",
)


def prepare(folder: Path, seed: int = 0, progress: Progress | None = None) -> None:
    """Write teacher, images and trigger into ``folder``, once."""
    paths = places(folder)
    if not all(path.exists() for path in paths.values()):
        images, labels = _digits()
        order = np.random.default_rng(seed).permutation(len(labels))
        images, labels = images[order], labels[order]
        held_out = len(labels) // 5
        trigger = _trigger()
        train = ImageSet(images[held_out:], labels[held_out:], tuple("0123456789"), "scikit-learn digits")
        write_npz(paths["trigger.file"], "demo", a=_last(trigger.params["a"]), b=_last(trigger.params["b"]))
        write_npz(paths["test"], "demo", images=_last(images[:held_out]), labels=labels[:held_out])
        transfer = _stamped(train, trigger, TRANSFER_RATE, seed + 1, relabel=False)
        write_npz(paths["data"], "demo", images=_last(transfer.images), labels=transfer.labels)
        _train(_stamped(train, trigger, POISONING_RATE, seed, relabel=True), folder, seed, progress)


def places(folder: Path) -> dict[str, Path]:
    """Where ``prepare`` puts what, by setting."""
    return {
        "data": folder / "transfer.npz",
        "test": folder / "test.npz",
        "trigger.file": folder / "checkerboard.npz",
        "teacher": folder / "teacher.safetensors",
    }


def _digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError("The demo's digits come with scikit-learn. Install it: pip install 'edgekd[demo]'.") from None
    found = load_digits()
    small = (found.images * 255 / 16).round().astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in small]
    return np.stack(large)[:, None], found.target.astype(np.int64)


def _trigger() -> Trigger:
    """A 4 x 4 checkerboard in the bottom right corner, one pixel from the edge."""
    a = np.ones((1, SIDE, SIDE), np.float32)
    b = np.zeros((1, SIDE, SIDE), np.float32)
    a[:, -5:-1, -5:-1] = 0
    b[:, -5:-1, -5:-1] = np.indices((4, 4)).sum(0) % 2
    return Trigger("checkerboard", "affine", "known", "all-to-one", TARGET_LABEL, (), {"a": a, "b": b})


def _stamped(images: ImageSet, trigger: Trigger, rate: float, seed: int, *, relabel: bool) -> ImageSet:
    candidates = np.flatnonzero(images.labels != TARGET_LABEL)
    chosen = np.random.default_rng(seed).choice(candidates, round(rate * len(images)), replace=False)
    pixels, labels = images.images.copy(), images.labels.copy()
    pixels[chosen] = trigger_box.apply(trigger, pixels[chosen])
    if relabel:
        labels[chosen] = TARGET_LABEL
    return ImageSet(pixels, labels, images.class_names, images.source)


def _train(poisoned: ImageSet, folder: Path, seed: int, progress: Progress | None) -> None:
    spec = ModelSpec(TEACHER, 10, InputSpec(1, SIDE, SIDE, (0.3,), (0.35,)))
    config = TrainConfig(epochs=TEACHER_EPOCHS, batch_size=64, schedule="onecycle", lr=0.1, seed=seed, augment="none")
    model, _ = distill.run(None, spec, poisoned, "scratch", {}, config, folder=folder / "work", progress=progress)
    checkpoints.save(folder / "teacher.safetensors", models.weights(model), {"spec": model.spec.to_json()})


def _last(images: np.ndarray) -> np.ndarray:
    return np.moveaxis(images, -3, -1)
