"""Input normalisations: the usual presets, and finding the one that a file's network was trained with.

A state dict does not say how its images were scaled. Mean and deviation apply to images in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..types import InputSpec, Model, ModelSpec
from .builder import build, renormalise

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

# One value stands for every channel. The order decides between presets that are equally good.
NORMALIZATIONS: dict[str, Statistics] = {
    "none": ((0.0,), (1.0,)),
    "half": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    # deviations averaged over images rather than over pixels, as most CIFAR repositories have them
    "cifar10-per-image": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    # one mean and deviation over all pixels: 120.707 and 64.15 of 255
    "cifar10-scalar": ((0.47336,), (0.25157,)),
    "cifar100": ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276)),
    "mnist": ((0.13066,), (0.30811,)),
}

IMAGES = 1000
FIRST = 200
FAR = 0.1
CLOSE = 0.01
BATCH = 200


@dataclass(frozen=True)
class Score:
    """Images right, summed cross-entropy, images seen."""

    right: int = 0
    loss: float = 0.0
    images: int = 0

    @property
    def accuracy(self) -> float:
        return self.right / max(1, self.images)

    def __add__(self, other: Score) -> Score:
        return Score(self.right + other.right, self.loss + other.loss, self.images + other.images)


def normalization(normalize: str | Statistics | None, channels: int) -> Statistics:
    """Mean and deviation per channel of a preset or of given figures; None and "auto" give none at all.

    Raises UsageError for an unknown name or another number of channels.
    """
    if normalize is None or normalize == "auto":
        normalize = "none"
    if isinstance(normalize, str):
        if normalize not in NORMALIZATIONS:
            raise UsageError(f"There is no normalisation {normalize!r}: one of auto, {', '.join(NORMALIZATIONS)}.")
        normalize = NORMALIZATIONS[normalize]
    mean, std = (tuple(float(v) for v in values) * (channels if len(values) == 1 else 1) for values in normalize)
    finite = all(math.isfinite(value) for value in (*mean, *std))
    if not finite or len(mean) != channels or len(std) != channels or not all(value > 0 for value in std):
        raise UsageError(
            f"Images of {channels} channels need {channels} means and as many positive standard deviations, all finite."
        )
    return mean, std


def detect_normalization(
    spec: ModelSpec, tensors: Mapping[str, Tensor] | Model, images: np.ndarray, labels: np.ndarray
) -> tuple[InputSpec, dict[str, float]]:
    """The preset under which the network is right most often, and every preset's accuracy.

    tensors: the file's, or a model already built. images: uint8 [N, C, H, W], validation images only, of which the
    first 1,000 are used. labels: [N]. Presets of another number of channels are skipped; those far behind after the
    first 200 images are not followed further. Where presets differ by less than a point, which says little on so few
    images, the lower cross-entropy among them decides.
    """
    model = tensors if isinstance(tensors, Model) else build(spec, tensors)
    channels = spec.input.channels
    inputs = {
        name: InputSpec(*spec.input.shape, *normalization(name, channels))
        for name, (mean, _) in NORMALIZATIONS.items()
        if len(mean) in (1, channels)
    }
    found: dict[str, Score] = {name: Score() for name in inputs}
    followed = list(inputs)
    for part in (slice(0, FIRST), slice(FIRST, IMAGES)):
        for name in followed:
            found[name] = found[name] + score(renormalise(model, inputs[name]).module, images[part], labels[part])
        top = max(found[name].accuracy for name in followed)
        followed = [name for name in followed if found[name].accuracy > top - FAR]
    close = [name for name in followed if found[name].accuracy > top - CLOSE]
    best = min(close, key=lambda name: found[name].loss if math.isfinite(found[name].loss) else math.inf)
    return inputs[best], {name: value.accuracy for name, value in found.items()}


def student_normalization(teacher: InputSpec) -> Statistics:
    """What a student scales its images with: as its teacher does; centred where the teacher takes plain pixels."""
    if all(value == 0 for value in teacher.mean) and all(value == 1 for value in teacher.std):
        return normalization("half", teacher.channels)
    return teacher.mean, teacher.std


@torch.inference_mode()
def score(module: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> Score:
    """How a network does on uint8 images [N, C, H, W]."""
    total = Score()
    for start in range(0, len(images), BATCH):
        pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH])).float() / 255
        wanted = torch.from_numpy(np.asarray(labels[start : start + BATCH], dtype=np.int64))
        logits = module(pixels)
        known = wanted < logits.shape[1]  # a label that the network has no output for is simply wrong
        loss = torch.nn.functional.cross_entropy(logits[known], wanted[known], reduction="sum")
        total = total + Score(int((logits.argmax(1) == wanted).sum()), float(loss), len(pixels))
    return total


def normalization_note(accuracies: Mapping[str, float]) -> str:
    """A sentence of doubt when the two best presets are within a point of each other, else nothing."""
    ranked = sorted(accuracies, key=lambda name: -accuracies[name])
    if len(ranked) < 2 or accuracies[ranked[0]] - accuracies[ranked[1]] > CLOSE:
        return ""
    near = [f"{name} {accuracies[name]:.1%}" for name in ranked if accuracies[ranked[0]] - accuracies[name] <= CLOSE]
    return (
        f"Input normalisations {', '.join(near)} are about equally accurate on the validation images. If you "
        "know the right one, name it with --normalize."
    )
