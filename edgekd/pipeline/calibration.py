"""Which images set the scales of INT8, and the accuracy that watches over it; validation and training images only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..audit.evaluate import Predict
from ..data import ImageSet
from ..datafree import ImageSource
from ..datafree.patches import ranks
from ..errors import UsageError
from ..quantize.images import LEAST_IMAGES, check
from ..runners.torch import images_at_once

# Candidates per image that is wanted: a teacher right on half of them still leaves enough.
CANDIDATES = 3
LEAST_OF_A_CLASS = 10  # images below which a class counts for less, as one that flips would count for much


def trusted(images: ImageSet, predict: Predict, count: int, seed: int) -> ImageSet:
    """Up to ``count`` seeded images whose label ``predict`` shares: a triggered image seldom is among them.

    Scales are an attack surface, and transfer data may carry triggers. Where almost nothing agrees, labels say nothing
    about the images, and a seeded choice of all of them is taken.
    """
    order = np.random.default_rng(seed).permutation(len(images))[: CANDIDATES * count]
    candidates = images.subset(np.sort(order))
    agreeing = np.flatnonzero(predict(candidates.images).argmax(1) == candidates.labels)
    chosen = agreeing if len(agreeing) >= min(LEAST_IMAGES, len(candidates)) else np.arange(len(candidates))
    return candidates.subset(chosen[:count])


def scale_images(
    source: ImageSource, teacher: Predict, count: int, seed: int, others: Callable[[int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Up to ``count`` images uint8 [N, C, H, W] of a source, and as many that set scales: the same, if they are pictures.

    No suspects, and of all the teacher's classes. others: makes patches that neither a training nor a judgement sees, as many
    as it is asked for, in place of images that are nearly noise.
    """

    def chosen(images: np.ndarray) -> np.ndarray:
        found: np.ndarray = images[spread_out(teacher(images).argmax(1), source.flagged(images), count)]
        return found

    own = chosen(source.collect(CANDIDATES * count, seed))
    try:
        check(own)
    except UsageError:
        return own, chosen(others(CANDIDATES * count))
    return own, own


def spread_out(labels: np.ndarray, suspects: np.ndarray, count: int) -> np.ndarray:
    """Positions of up to ``count`` images, no suspects among them, of every class as many as there are to be had.

    labels int64 [N], suspects bool [N]; where nearly all are suspects that says nothing, and all may be taken.
    """
    free = np.flatnonzero(~suspects)
    if len(free) < min(LEAST_IMAGES, len(labels)):
        free = np.arange(len(labels))
    order = np.argsort(ranks(labels[free]), kind="stable")
    return np.sort(free[order[:count]])


def accuracy_on(
    images: ImageSet, device: str = "cpu", weights: np.ndarray | None = None
) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], float]:
    """A function from a module (float images -> logits) to its ACC on ``images``, a fraction; weights [N]: of each image."""

    @torch.inference_mode()
    def accuracy(predict: Callable[[torch.Tensor], torch.Tensor]) -> float:
        right, step = [np.zeros(0, bool)], images_at_once(images.shape)
        for start in range(0, len(images), step):
            pixels = torch.from_numpy(images.images[start : start + step]).to(device)
            logits = predict(pixels.float().div(255).to(memory_format=torch.channels_last))
            right.append(logits.argmax(1).cpu().numpy() == images.labels[start : start + step])
        hits = np.concatenate(right)
        if weights is None:
            return int(hits.sum()) / max(len(images), 1)
        return float((weights * hits).sum() / weights.sum())

    return accuracy


def agreement_without(
    images: ImageSet, device: str = "cpu"
) -> Callable[[Callable[[np.ndarray], np.ndarray]], Callable[[Callable[[torch.Tensor], torch.Tensor]], float]]:
    """From a function that suspects images to an agreement with their labels, the teacher's, that counts no suspects.

    Classes count alike. What unlearns a backdoor takes images away from the class that a poisoned teacher favours, and
    must not pass for a student that agrees less.
    """

    def judge(
        suspects: Callable[[np.ndarray], np.ndarray],
    ) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], float]:
        flagged = suspects(images.images)
        counted = ~flagged if not flagged.all() else np.ones(len(images), bool)
        sizes = np.bincount(images.labels[counted], minlength=images.num_classes)
        return accuracy_on(images, device, counted / np.maximum(sizes, LEAST_OF_A_CLASS)[images.labels])

    return judge
