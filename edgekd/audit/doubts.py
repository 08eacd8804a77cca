"""The evaluator doubts itself: what about a predictor or its probes would make the figures worth less."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekd.errors import UsageError

ENOUGH_PER_CLASS = 100
_ALONE = 8  # images predicted a second time, in other company: few, so that batch statistics would differ


def refuse_unreadable(logits: np.ndarray, labels: np.ndarray) -> None:
    """Raise UsageError unless logits are finite [N, K] with an output for every label of ``labels`` [N]."""
    if logits.ndim != 2 or len(logits) != len(labels):
        raise UsageError(f"The model's output is {list(logits.shape)} for {len(labels)} images, expected [N, classes].")
    top = int(labels.max(initial=0))
    if top >= logits.shape[1]:
        raise UsageError(
            f"The data has a label {top}, but the model has only {logits.shape[1]} outputs. Map the classes with "
            "--class-map."
        )
    broken = int((~np.isfinite(logits)).any(1).sum())
    if broken:
        raise UsageError(
            f"The model's outputs are NaN or infinite on {broken} of {len(logits)} images: damaged weights, or a wrong "
            "input normalisation (--normalize)."
        )


def of_probes(labels: np.ndarray) -> list[str]:
    """Doubts about the images: too few of some class."""
    classes, counts = np.unique(labels, return_counts=True)
    scarce = classes[counts < ENOUGH_PER_CLASS]
    if not len(scarce):
        return []
    return [
        f"{len(scarce)} of {len(classes)} classes have fewer than {ENOUGH_PER_CLASS} probe images (class "
        f"{classes[counts.argmin()]} has {counts.min()}): the intervals are wide."
    ]


def of_predictor(predict: Callable[[np.ndarray], np.ndarray], images: np.ndarray, logits: np.ndarray) -> list[str]:
    """Doubts about the predictor, given its ``logits`` on ``images``: probabilities, one answer for all, train mode."""
    found = []
    if are_probabilities(logits):
        found.append("The model's outputs already sum to one: they are probabilities, and distillation needs logits.")
    if len(logits) > 1 and len(np.unique(logits.argmax(1))) == 1:
        found.append(f"The model calls every image class {int(logits[0].argmax())}.")
    if len(images) > 1:
        alone = predict(images[: min(_ALONE, len(images) // 2)])
        shift = float(np.median(np.abs(alone - logits[: len(alone)])))
        if shift > 0.01 * max(float(logits.std()), 1e-12):
            found.append(
                "The model's outputs depend on the other images of the batch or on chance: it is probably in train "
                "mode (batch normalisation or dropout), so none of its figures can be trusted."
            )
    return found


def are_probabilities(logits: np.ndarray) -> bool:
    """Whether every row of [N, K] is non-negative and sums to one."""
    return bool(len(logits) and (logits >= 0).all() and np.allclose(logits.sum(1), 1, atol=1e-4))
