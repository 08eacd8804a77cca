"""Random streams with names: the same seed and names give the same numbers, whatever else was drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A generator seeded by blake2b of the seed and the names, e.g. ``stream(0, "order", epoch)``."""
    text = "\0".join(str(part) for part in (seed, *names))
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.blake2b(text.encode()).digest(), "little")))


def shuffled(count: int, seed: int, *names: str | int) -> np.ndarray:
    """A permutation of ``count`` as int64, from raw bits, so that it is the same under every version of numpy."""
    order: np.ndarray = np.argsort(stream(seed, *names).bit_generator.random_raw(count), kind="stable")
    return order.astype(np.int64)


def below(limit: int, count: int, seed: int, *names: str | int) -> np.ndarray:
    """``count`` integers in [0, limit) as int64, from raw bits; limit is at most 2**20, so the bias is below 1e-13."""
    raw = stream(seed, *names).bit_generator.random_raw(count)
    drawn: np.ndarray = raw % np.uint64(limit)
    return drawn.astype(np.int64)
