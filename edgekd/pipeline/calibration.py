"""Which images set the scales of INT8, and the accuracy that watches over it; validation and training images only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..audit.evaluate import Predict
from ..data import ImageSet
from ..quantize.images import LEAST_IMAGES
from ..runners.torch import images_at_once

# Candidates per image that is wanted: a teacher right on half of them still leaves enough.
CANDIDATES = 3


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


def accuracy_on(images: ImageSet, device: str = "cpu") -> Callable[[Callable[[torch.Tensor], torch.Tensor]], float]:
    """A function from a module (float images -> logits) to its ACC on ``images``, a fraction."""

    @torch.inference_mode()
    def accuracy(predict: Callable[[torch.Tensor], torch.Tensor]) -> float:
        hits, step = 0, images_at_once(images.shape)
        for start in range(0, len(images), step):
            pixels = torch.from_numpy(images.images[start : start + step]).to(device)
            logits = predict(pixels.float().div(255).to(memory_format=torch.channels_last))
            hits += int((logits.argmax(1).cpu() == torch.from_numpy(images.labels[start : start + step])).sum())
        return hits / max(len(images), 1)

    return accuracy
