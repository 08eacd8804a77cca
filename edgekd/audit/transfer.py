"""Suspicious transfer data, the other carrier of a backdoor: images whose label the teacher does not share."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.audit import doubts
from edgekd.audit.evaluate import Predict
from edgekd.data import ImageSet


def disagreement(predict: Predict, images: ImageSet, top: int = 50) -> dict[str, Any]:
    """Where the teacher's label and the given one differ, most confident first.

    Returns plain JSON: ``count`` of ``total`` images, ``top`` rows {index, label, predicted, confidence}, and ``into``,
    how many of them each predicted class got (one class that takes most of them is what poisoned data looks like).
    """
    logits = predict(images.images)
    doubts.refuse_unreadable(logits, images.labels)
    predicted = logits.argmax(1)
    confidence = _confidence(logits)
    differ = np.flatnonzero(predicted != images.labels)
    order = differ[np.argsort(-confidence[differ], kind="stable")][:top]
    classes, counts = np.unique(predicted[differ], return_counts=True)
    return {
        "count": len(differ),
        "total": len(images),
        "into": {str(label): int(count) for label, count in zip(classes, counts, strict=True)},
        "top": [
            {
                "index": int(index),
                "label": int(images.labels[index]),
                "predicted": int(predicted[index]),
                "confidence": round(float(confidence[index]), 6),
            }
            for index in order
        ],
    }


def _confidence(logits: np.ndarray) -> np.ndarray:
    """Largest probability of each row of [N, K]; outputs that are probabilities already are taken as they are."""
    if doubts.are_probabilities(logits):
        return np.asarray(logits.max(1), np.float64)
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return np.asarray(1 / shifted.sum(1), np.float64)
