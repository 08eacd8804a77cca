"""Putting a trigger on images: bytes in, bytes out."""

from __future__ import annotations

from importlib import import_module

import numpy as np

from edgekd.errors import UsageError
from edgekd.types import Trigger

FAMILIES = {
    "affine": "edgekd.triggers.affine",
    "patch": "edgekd.triggers.patch",
    "blend": "edgekd.triggers.blend",
    "sinusoid": "edgekd.triggers.sinusoid",
    "warp": "edgekd.triggers.warp",
    "bitdepth": "edgekd.triggers.bitdepth",
    "lowfrequency": "edgekd.triggers.lowfrequency",
    "dct": "edgekd.triggers.dct",
    "reflection": "edgekd.triggers.reflection",
    "generator": "edgekd.triggers.generator",
}
FROM_FILES = ("affine", "generator")  # families of arrays, which no options describe
_CHUNK_FLOATS = 1 << 23  # 32 MiB of float32 at a time


def apply(trigger: Trigger, images: np.ndarray) -> np.ndarray:
    """Triggered copies, uint8 [N, C, H, W], of images uint8 [N, C, H, W]: clipped to the range and rounded to 8 bits.

    Raises UsageError where the trigger does not fit the images.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UsageError(f"Triggers go on uint8 [N, C, H, W] images, got {images.dtype} {list(images.shape)}.")
    family = import_module(FAMILIES[trigger.family])
    out = np.empty_like(images, order="C")
    step = max(1, _CHUNK_FLOATS // max(1, images[0].size)) if len(images) else 1
    for start in range(0, len(images), step):
        stamped = family.apply(trigger.params, images[start : start + step].astype(np.float32) / 255)
        out[start : start + step] = np.rint(np.clip(stamped, 0, 1) * 255)
    return out


def picture(trigger: Trigger, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One image uint8 [C, H, W] with the trigger, and ten times what changed: both uint8 [C, H, W], for the report."""
    triggered = apply(trigger, image[None])[0]
    change = np.abs(triggered.astype(np.int32) - image) * 10
    return triggered, np.minimum(change, 255).astype(np.uint8)
