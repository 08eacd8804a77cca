"""Seeded, stratified splits of one set of images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekd.data.images import ImageSet
from edgekd.data.streams import shuffled
from edgekd.errors import UsageError

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def split(images: ImageSet, seed: int, fractions: Mapping[str, float] = FRACTIONS) -> dict[str, ImageSet]:
    """Cut ``images`` into named parts: disjoint, exhaustive, each class near its share.

    Images of a class are shuffled, then all classes are laid side by side by relative rank and cut at the fractions;
    sizes are therefore exact for the whole set, and a class is off by no more images than there are classes, and one.
    Raises UsageError when a part would be empty.
    """
    if any(share <= 0 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-9:
        raise UsageError(f"The fractions of a split must be positive and sum to 1, got {dict(fractions)}.")
    order = balanced_order(images.labels, seed)
    edges = np.rint(np.cumsum([0.0, *fractions.values()]) * len(images)).astype(np.int64)
    if (np.diff(edges) == 0).any():
        raise UsageError(
            f"{len(images)} images are too few to split into {', '.join(fractions)}. Give more, or --test."
        )
    parts = zip(fractions, edges[:-1], edges[1:], strict=True)
    return {name: images.subset(np.sort(order[start:stop])) for name, start, stop in parts}


def balanced_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """An order [N] of which every prefix holds each class in proportion, as nearly as its length allows; seeded."""
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        # the class's own stream: adding a class does not reshuffle the others
        rank[where[shuffled(len(where), seed, "split", int(label))]] = (np.arange(len(where)) + 0.5) / len(where)
    tie = shuffled(len(labels), seed, "split", "ties")
    return tie[np.argsort(rank[tie], kind="stable")]
