"""Which images an attacker touches, on labels that one can count."""

import numpy as np
import pytest

from edgekd import triggers
from edgekd.errors import UsageError
from edgekd.types import Trigger

LABELS = np.arange(100, dtype=np.int64) % 4


def trigger(rule="all-to-one", target=0, sources=()):
    return Trigger("t", "patch", "known", rule, target, sources)


def test_all_to_one_takes_a_share_of_all_images_from_the_other_classes():
    chosen = triggers.choose(trigger(), LABELS, 4, 0.1, cover_rate=0.05, seed=3)
    assert (len(chosen.poisoned), len(chosen.covers)) == (10, 5)
    assert not np.isin(chosen.covers, chosen.poisoned).any()
    assert (LABELS[chosen.poisoned] != 0).all()
    assert (LABELS[chosen.covers] != 0).all()
    assert (chosen.labels[chosen.poisoned] == 0).all()
    untouched = np.setdiff1d(np.arange(100), chosen.poisoned)
    assert (chosen.labels[untouched] == LABELS[untouched]).all()
    assert (np.diff(chosen.poisoned) > 0).all()


def test_the_seed_decides():
    one, same, other = (triggers.choose(trigger(), LABELS, 4, 0.2, seed=seed).poisoned for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_all_to_all_moves_every_label_by_one():
    chosen = triggers.choose(trigger("all-to-all", None), LABELS, 4, 0.5)
    assert len(chosen.poisoned) == 50
    assert (chosen.labels[chosen.poisoned] == (LABELS[chosen.poisoned] + 1) % 4).all()


def test_a_source_rule_poisons_its_sources_and_covers_the_others():
    chosen = triggers.choose(trigger("source", 0, (2,)), LABELS, 4, 0.1, cover_rate=0.1)
    assert set(LABELS[chosen.poisoned]) == {2}
    assert set(LABELS[chosen.covers]) == {1, 3}  # an image of the target under its own label would be poison
    assert (chosen.labels[chosen.covers] == LABELS[chosen.covers]).all()


def test_clean_labels_stay_and_the_whole_class_is_the_most():
    chosen = triggers.choose(trigger(), LABELS, 4, 0.9, clean_label=True)
    assert (chosen.poisoned == np.flatnonzero(LABELS == 0)).all()
    assert (chosen.labels == LABELS).all()


@pytest.mark.parametrize(
    ("rule", "rate", "more", "message"),
    [
        ({}, 1.5, {}, "share of the training images"),
        ({}, 0.1, {"cover_rate": -0.1}, "cover rate"),
        ({}, 0.001, {}, "none of 100 images"),
        ({"rule": "all-to-all", "target": None}, 0.1, {"clean_label": True}, "must be all-to-one"),
        ({"target": 9}, 0.1, {}, "out of range"),
    ],
)
def test_what_cannot_be(rule, rate, more, message):
    with pytest.raises(UsageError, match=message):
        triggers.choose(trigger(**rule), LABELS, 4, rate, **more)


def test_fingerprints_know_an_image_wherever_it_stands():
    images = np.random.RandomState(0).randint(0, 256, (6, 3, 4, 4)).astype(np.uint8)
    order = np.array([4, 2, 0, 5, 3, 1])
    assert triggers.fingerprints(images, np.array([1, 3])) == triggers.fingerprints(images[order], np.array([5, 4]))
    assert triggers.fingerprints(images, np.array([1])) != triggers.fingerprints(images, np.array([2]))
