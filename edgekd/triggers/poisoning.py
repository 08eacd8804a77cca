"""Which training images an attacker touches, and under which label: rate, covers, clean labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgekd.errors import UsageError
from edgekd.files import sha256_bytes
from edgekd.triggers.rules import attacker_labels, counted_mask
from edgekd.types import Trigger


class Chosen(NamedTuple):
    """Positions int64, in ascending order, and the label of every image [N] after poisoning.

    poisoned: stamped, under the attacker's label. covers: stamped, under their own, so that the network learns what the
    trigger is not.
    """

    poisoned: np.ndarray
    covers: np.ndarray
    labels: np.ndarray


def choose(
    trigger: Trigger,
    labels: np.ndarray,
    num_classes: int,
    rate: float,
    *,
    cover_rate: float = 0.0,
    clean_label: bool = False,
    seed: int = 0,
) -> Chosen:
    """Draw images for poison and cover; both rates are shares of all N images.

    clean_label: only images that are of the attacker's class already are stamped, and no label changes. A source rule
    poisons its source classes and takes the covers from the others, the target class left out. A rate that asks for more images than there are
    candidates takes all of them. Raises UsageError for a rate outside [0, 1] and where nothing is left to poison.
    """
    for what, value in (("poisoning", rate), ("cover", cover_rate)):
        if not 0 <= value <= 1:
            raise UsageError(f"The {what} rate is {value:g}; it is a share of the training images, from 0 to 1.")
    labels = np.asarray(labels, dtype=np.int64)
    wanted, meant = attacker_labels(trigger, labels, num_classes), counted_mask(trigger, labels)
    if clean_label and trigger.rule != "all-to-one":
        raise UsageError("A clean-label attack changes no label, so it has one target: the rule must be all-to-one.")
    candidates = labels == wanted if clean_label else meant & (labels != wanted)
    order = np.random.default_rng(seed).permutation(len(labels))
    poisoned = order[candidates[order]][: round(rate * len(labels))]
    if rate > 0 and not len(poisoned):
        raise UsageError(
            f"At a rate of {rate:g}, none of {len(labels)} images can be poisoned with {trigger.name}. Give a "
            "higher rate, or images that the attack can use."
        )
    free = ~meant & (labels != trigger.target_label) if trigger.rule == "source" else labels != wanted
    free[poisoned] = False
    covers = order[free[order]][: round(cover_rate * len(labels))]
    changed = labels.copy()
    changed[poisoned] = wanted[poisoned]
    return Chosen(np.sort(poisoned), np.sort(covers), changed)


def fingerprints(images: np.ndarray, positions: np.ndarray) -> list[str]:
    """A hash per image uint8 [N, C, H, W] at ``positions``: says which images they are in whatever order they come."""
    return sorted(sha256_bytes(np.ascontiguousarray(images[position]).tobytes())[:16] for position in positions)
