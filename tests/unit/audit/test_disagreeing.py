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
    found = audit.disagreement(lambda images: LOGITS, IMAGES)
    assert (found["count"], found["total"]) == (3, 6)
    assert found["into"] == {"0": 2, "1": 1}
    assert [(row["index"], row["label"], row["predicted"]) for row in found["top"]] == [(3, 0, 1), (1, 1, 0), (5, 2, 0)]
    assert found["top"][1]["confidence"] == pytest.approx(np.exp(3) / (np.exp(3) + 2), abs=1e-6)
    assert json.loads(json.dumps(found)) == found


def test_top_limits_the_rows_and_probabilities_are_taken_as_they_are() -> None:
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    found = audit.disagreement(lambda images: probabilities, IMAGES, top=1)
    assert found["count"] == 3
    assert len(found["top"]) == 1
    assert found["top"][0]["confidence"] == pytest.approx(probabilities[3, 1], abs=1e-6)


def test_full_agreement() -> None:
    found = audit.disagreement(lambda images: np.eye(3, dtype=np.float32)[LABELS] * 5, IMAGES)
    assert found == {"count": 0, "total": 6, "into": {}, "top": []}
