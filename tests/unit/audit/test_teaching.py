"""What is said beside the label: correlations by hand, and what makes a teacher suspicious."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.audit import teaching
from edgekd.audit.teachable import calibration_error, correlation, softmax
from edgekd.data import ImageSet
from edgekd.errors import UsageError


def images(count: int = 200, classes: int = 5) -> ImageSet:
    pixels = np.zeros((count, 1, 2, 2), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    return ImageSet(pixels, np.arange(count) % classes, tuple("abcdefghij"[:classes]), "made up")


def network(rows: np.ndarray):
    """Logits looked up by the number that an image holds."""
    return lambda pixels: rows[pixels[:, 0, 0, 0]]


def rows(seed: int, boost: float = 6.0, classes: int = 5) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(200, classes))
    made[np.arange(200), np.arange(200) % classes] += boost
    return made


def test_correlation_by_hand() -> None:
    ours = np.array([[1.0, 2, 3], [1, 2, 3], [5, 5, 5]])
    theirs = np.array([[2.0, 4, 6], [3, 2, 1], [1, 2, 3]])
    assert correlation(ours, theirs).tolist() == pytest.approx([1, -1, 0])
    mixed = correlation(np.array([[0.0, 1, 5]]), np.array([[1.0, 0, 4]]))
    assert mixed.tolist() == pytest.approx([np.corrcoef([0, 1, 5], [1, 0, 4])[0, 1]])


def test_the_label_plays_no_part() -> None:
    reference, same = rows(0), rows(0, boost=20.0)
    found = teaching(network(same), network(reference), images())
    assert (found["correlation"], found["second"], found["suspicious"]) == (pytest.approx(1), 1.0, False)
    assert (found["images"], found["acc"]) == (200, 1.0)


def test_outputs_that_have_nothing_to_do_with_the_references_are_suspicious() -> None:
    found = teaching(network(rows(1)), network(rows(0)), images())
    assert abs(found["correlation"]) < 0.1
    assert found["suspicious"] is True
    low, high = found["interval"]
    assert low < found["correlation"] < high < 0.3
    halfway = teaching(network(rows(0) + 0.5 * rows(1, 0.0)), network(rows(0)), images())
    assert halfway["correlation"] > 0.7
    assert halfway["suspicious"] is False


def test_entropy_and_masses_are_of_the_softmax() -> None:
    made = np.tile(np.log([0.5, 0.25, 0.125, 0.0625, 0.0625]), (200, 1))
    found = teaching(network(made), network(rows(0)), images())
    assert found["entropy"] == pytest.approx(1.875 * np.log(2))
    powers = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625]) ** 0.25
    assert found["mass"] == pytest.approx((powers / powers.sum())[:3].tolist())
    assert softmax(np.array([[1000.0, 1000.0]])).tolist() == [[0.5, 0.5]]


def test_calibration_is_of_the_bins_of_confidence() -> None:
    made = np.array([[0.9, 0.1], [0.92, 0.08], [0.4, 0.6], [1.0, 0.0]])
    found = calibration_error(made, np.array([0, 1, 1, 0]))
    assert found == pytest.approx((abs(1 - 0.9 - 0.92) + (1 - 0.6) + 0) / 4), "0.9 and 0.92 share a bin, 1 has the last"
    sure = teaching(network(rows(0, boost=40.0)), network(rows(0)), images())
    assert sure["ece"] == pytest.approx(0, abs=1e-6)
    wrong = teaching(network(rows(1, boost=0.0)), network(rows(0)), images())
    assert wrong["ece"] > 0.1


def test_probabilities_are_read_as_what_their_softmax_was_made_of() -> None:
    reference, logits = rows(0), rows(0) + rows(1, boost=0.0)
    plain, inside = (teaching(network(made), network(reference), images()) for made in (logits, softmax(logits)))
    assert inside["correlation"] == pytest.approx(plain["correlation"])
    assert (inside["entropy"], inside["mass"]) == (pytest.approx(plain["entropy"]), pytest.approx(plain["mass"]))


def test_few_classes_and_weak_references_are_not_judged() -> None:
    three = [rows(seed, classes=3) for seed in (0, 1)]
    assert teaching(network(three[0]), network(three[1]), images(classes=3))["suspicious"] is None
    weak = rows(1, boost=0.0)  # right on one image in five
    assert teaching(network(rows(0)), network(weak), images())["suspicious"] is None


def test_more_classes_than_the_references_are_cut_and_fewer_images_looked_at() -> None:
    wide = np.concatenate([rows(0), np.full((200, 2), -3.0)], axis=1)
    found = teaching(network(wide), network(rows(0)), images(), limit=50)
    assert (found["correlation"], found["images"]) == (pytest.approx(1), 50)
    with pytest.raises(UsageError, match="label 4"):
        teaching(network(rows(0, classes=3)[:, :3]), network(rows(0)), images())
