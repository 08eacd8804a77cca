"""Whether a student would learn from a model what it learns from others: what its outputs say beside the label.

A nasty teacher (Ma et al. 2021) is as accurate as another, and its outputs are made so that a student that imitates them
gets worse. What it says of the classes that an image does not have then bears no relation to what an independently
trained network says of them. The bound of 0.3 is the method card's (nasty_teacher, 8), from networks on 8 x 8 digits: 0.52
to 0.64 for two normal teachers, at most 0.19 for two effective nasty ones. The card wants it calibrated on five normal
teachers of one's own; on other images it is a guess until benchmarks/nasty.py has been measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.audit import doubts
from edgekd.audit.evaluate import Predict
from edgekd.data import ImageSet, balanced_order

SUSPECT = 0.3  # correlation below which a model is called suspicious; from digits
LEAST_CLASSES = 4  # of which three are not the label's
WEAK = 0.5  # of the model's accuracy: a reference below it knows too little of the other classes itself
SOFT = 4.0  # temperature of the masses
IMAGES = 2000
BINS = 15  # of confidence


def teaching(predict: Predict, reference: Predict, images: ImageSet, limit: int = IMAGES) -> dict[str, Any]:
    """Statistics of a model's outputs on at most ``limit`` images (balanced over classes), beside a reference's.

    reference: a network of the same classes that learnt from labels alone; a small student will do. Returns plain JSON:
    ``correlation`` (Pearson's, of the logits beside the label's, mean over images) and its 95 % ``interval``; ``second``,
    the share of images on which both rank the same other class first; ``entropy`` in nats; ``mass`` of the three most
    likely classes at temperature 4; ``ece``, how far its confidence is from its accuracy, told alone; ``acc`` and ``reference_acc``; ``images``; ``suspicious``, None with fewer than four
    classes or too weak a reference. Raises UsageError for outputs that cannot be read as logits of these classes.
    """
    if len(images) > limit:
        images = images.subset(np.sort(balanced_order(images.labels, 0)[:limit]))
    logits, beside = (_logits(one(images.images), images.labels) for one in (predict, reference))
    classes, labels = min(logits.shape[1], beside.shape[1]), images.labels
    ours, theirs = (_others(outputs[:, :classes], labels) for outputs in (logits, beside))
    found = correlation(ours, theirs)
    spread = 1.96 * float(found.std()) / len(found) ** 0.5
    mean = float(found.mean())
    acc, reference_acc = (float((outputs.argmax(1) == labels).mean()) for outputs in (logits, beside))
    judged = classes >= LEAST_CLASSES and reference_acc >= WEAK * acc
    soft = np.sort(softmax(logits / SOFT), axis=1)[:, ::-1]
    sure = softmax(logits)
    return {
        "correlation": mean,
        "interval": [mean - spread, mean + spread],
        "second": float((ours.argmax(1) == theirs.argmax(1)).mean()),
        "entropy": float(-(sure * np.log(sure.clip(1e-300))).sum(1).mean()),
        "mass": [float(column.mean()) for column in soft.T[:3]],
        "ece": calibration_error(sure, labels),
        "acc": acc,
        "reference_acc": reference_acc,
        "images": len(labels),
        "suspicious": bool(mean + spread < SUSPECT) if judged else None,
    }


def correlation(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of one [N, K] with the same row of the other: float64 [N]; 0 for a constant row."""
    centred = [rows - rows.mean(1, keepdims=True) for rows in (ours, theirs)]
    lengths = np.prod([np.linalg.norm(rows, axis=1) for rows in centred], axis=0)
    products: np.ndarray = (centred[0] * centred[1]).sum(1)
    return np.asarray(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 1e-12))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows of [N, K] as probabilities."""
    powers: np.ndarray = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error of [N, K]: mean over images of |accuracy - confidence| of its bin of confidence, in [0, 1]."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, right - confidence, BINS)  # sums, so each bin is weighed by its images
    return float(np.abs(gaps).sum() / len(labels))


def _logits(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Outputs [N, K] in float64; those of a network with its softmax inside as their logarithms."""
    doubts.refuse_unreadable(outputs, labels)
    exact = np.asarray(outputs, np.float64)
    return np.log(exact.clip(1e-30)) if doubts.are_probabilities(outputs) else exact


def _others(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logits [N, K] without those of the labels [N]: [N, K - 1]."""
    kept = np.arange(logits.shape[1]) != labels[:, None]
    return np.asarray(logits[kept].reshape(len(logits), -1))
