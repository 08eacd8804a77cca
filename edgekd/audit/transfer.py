"""Suspicious transfer data, the other carrier of a backdoor: images whose label the teacher does not share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekd.audit import doubts
from edgekd.audit.evaluate import Predict
from edgekd.data import ImageSet


def disagreement(predict: Predict, parts: Mapping[str, ImageSet], top: int = 50) -> dict[str, Any]:
    """Where the teacher's label and the given one differ, most confident first, over all ``parts`` of one source.

    Returns plain JSON: ``count`` of ``total`` images, ``top`` rows {part, position, index, file, label, predicted,
    confidence}, and ``into``, how many of them each predicted class got (one class that takes most of them is what
    poisoned data with true labels looks like). position: in the part; index and file: in its source.
    """
    rows: list[dict[str, Any]] = []
    into = np.zeros(0, np.int64)
    for part, images in parts.items():
        logits = predict(images.images)
        doubts.refuse_unreadable(logits, images.labels)
        predicted, confidence = logits.argmax(1), _confidence(logits)
        differ = np.flatnonzero(predicted != images.labels)
        into = _added(into, np.bincount(predicted[differ]))
        rows += [
            {
                "part": part,
                "position": int(position),
                "index": images.number(int(position)),
                "file": images.file(int(position)),
                "label": int(images.labels[position]),
                "predicted": int(predicted[position]),
                "confidence": round(float(confidence[position]), 6),
            }
            for position in differ[np.argsort(-confidence[differ], kind="stable")][:top]
        ]
    return {
        "count": int(into.sum()),
        "total": sum(len(images) for images in parts.values()),
        "into": {str(label): int(count) for label, count in enumerate(into) if count},
        "top": sorted(rows, key=lambda row: -row["confidence"])[:top],
    }


def _added(counts: np.ndarray, more: np.ndarray) -> np.ndarray:
    """The sum of two counts by class, of which either may know more classes."""
    longest = max(len(counts), len(more))
    total: np.ndarray = np.pad(counts, (0, longest - len(counts))) + np.pad(more, (0, longest - len(more)))
    return total


def _confidence(logits: np.ndarray) -> np.ndarray:
    """Largest probability of each row of [N, K]; outputs that are probabilities already are taken as they are."""
    if doubts.are_probabilities(logits):
        return np.asarray(logits.max(1), np.float64)
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return np.asarray(1 / shifted.sum(1), np.float64)
