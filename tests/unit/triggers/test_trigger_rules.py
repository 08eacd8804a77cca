"""Labels an attacker wants, images that count."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd import triggers
from edgekd.errors import UsageError
from edgekd.triggers import rules
from edgekd.types import Trigger

LABELS = np.array([0, 1, 2, 3, 3, 8, 9])


def trigger(rule: str, target: int | None, sources: tuple[int, ...] = ()) -> Trigger:
    return Trigger("t", "blend", "known", rule, target, sources)


def test_all_to_one() -> None:
    one = trigger("all-to-one", 3)
    assert triggers.attacker_labels(one, LABELS, 10).tolist() == [3] * 7
    assert triggers.attacker_labels(one, LABELS, 10, target=4).tolist() == [4] * 7
    assert triggers.counted_mask(one, LABELS).all()


def test_all_to_all_wraps_round() -> None:
    every = trigger("all-to-all", None)
    assert triggers.attacker_labels(every, LABELS, 10).tolist() == [1, 2, 3, 4, 4, 9, 0]
    assert triggers.counted_mask(every, LABELS).all()


def test_source_specific_counts_its_sources() -> None:
    source = trigger("source", 3, (8, 9))
    assert triggers.attacker_labels(source, LABELS, 10).tolist() == [3] * 7
    assert triggers.counted_mask(source, LABELS).tolist() == [False] * 5 + [True] * 2


def test_a_canary_needs_a_target_from_outside() -> None:
    canary = trigger("all-to-one", None)
    with pytest.raises(UsageError, match="needs the attacker's target"):
        triggers.attacker_labels(canary, LABELS, 10)
    assert triggers.attacker_labels(canary, LABELS, 10, target=0).tolist() == [0] * 7
    with pytest.raises(UsageError, match="out of range for 10 classes"):
        triggers.attacker_labels(canary, LABELS, 10, target=10)


def test_labels_must_be_indices() -> None:
    for wrong in (True, 1.0, "3"):
        with pytest.raises(UsageError, match="class index"):
            rules.check("all-to-one", wrong, ())  # type: ignore[arg-type]
    rules.check("all-to-one", int(np.int64(3)), ())
