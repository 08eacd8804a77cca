"""Teacher against label: counts, order, confidence."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgekd import audit
from edgekd.data import ImageSet

LABELS = np.array([0, 1, 2, 0, 1, 2])
IMAGES = ImageSet(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), LABELS, ("a", "b", "c"))
LOGITS = np.array(
    [
        [2.0, 0.0, 0.0],
        [3.0, 0.0, 0.0],  # 1 called 0
        [0.0, 0.0, 1.0],
        [0.0, 5.0, 0.0],  # 0 called 1, the most confident
        [0.0, 1.0, 0.0],
        [1.0, 0.0, 0.0],  # 2 called 0, the least confident
    ],
    np.float32,
)


def test_most_confident_first() -> None:
    found = audit.disagreement(lambda images: LOGITS, {"train": IMAGES})
    assert (found["count"], found["total"]) == (3, 6)
    assert found["into"] == {"0": 2, "1": 1}
    assert [(row["index"], row["label"], row["predicted"]) for row in found["top"]] == [(3, 0, 1), (1, 1, 0), (5, 2, 0)]
    assert found["top"][1]["confidence"] == pytest.approx(np.exp(3) / (np.exp(3) + 2), abs=1e-6)
    assert json.loads(json.dumps(found)) == found


def test_top_limits_the_rows_and_probabilities_are_taken_as_they_are() -> None:
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    found = audit.disagreement(lambda images: probabilities, {"train": IMAGES}, top=1)
    assert found["count"] == 3
    assert len(found["top"]) == 1
    assert found["top"][0]["confidence"] == pytest.approx(probabilities[3, 1], abs=1e-6)


def test_full_agreement() -> None:
    found = audit.disagreement(lambda images: np.eye(3, dtype=np.float32)[LABELS] * 5, {"train": IMAGES})
    assert found == {"count": 0, "total": 6, "into": {}, "top": []}


def test_parts_of_one_source_are_named_by_the_source() -> None:
    """Image N is the user's own, whatever the split made of it."""
    named = ImageSet(IMAGES.images, LABELS, IMAGES.class_names, files=tuple(f"{i}.png" for i in range(6)))
    parts = {"train": named.subset([5, 1, 0]), "validation": named.subset([4, 3, 2]).subset([1, 2])}

    def predict(images: np.ndarray) -> np.ndarray:
        return LOGITS[images[:, 0, 0, 0]]  # the pixel is the image's number

    found = audit.disagreement(predict, parts)
    assert (found["count"], found["total"], found["into"]) == (3, 5, {"0": 2, "1": 1})
    told = [(row["part"], row["position"], row["index"], row["file"], row["label"]) for row in found["top"]]
    assert told == [
        ("validation", 0, 3, "3.png", 0),
        ("train", 1, 1, "1.png", 1),
        ("train", 0, 5, "5.png", 2),
    ]
    assert json.loads(json.dumps(found)) == found
    assert [row["index"] for row in audit.disagreement(predict, parts, top=2)["top"]] == [3, 1]
