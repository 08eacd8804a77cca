"""BPP (Wang et al. 2022): posterised to q levels, x' = round(x (q - 1)) / (q - 1), optionally dithered."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.triggers.drawings import Floats, Shape
from edgekd.triggers.options import Number, Option, Switch

OPTIONS: dict[str, Option] = {"levels": Number(8, 2, 256, whole=True), "dither": Switch(False)}


def build(options: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The options themselves; nothing depends on the size."""
    return dict(options)


def apply(params: dict[str, Any], images: Floats) -> Floats:
    """images float32 [N, C, H, W] in [0, 1]; params levels q >= 2, dither (Floyd-Steinberg, left to right)."""
    steps = np.float32(params["levels"] - 1)
    if not params["dither"]:
        squeezed: Floats = np.rint(images * steps) / steps
        return squeezed
    # pixel by pixel as the error spreads, all images and channels at once; a border takes what falls outside
    height, width = images.shape[2:]
    work = np.pad(images, ((0, 0), (0, 0), (0, 1), (1, 1)))
    for row in range(height):
        for column in range(1, width + 1):
            old = work[..., row, column].copy()
            new = np.rint(np.clip(old, 0, 1) * steps) / steps
            work[..., row, column] = new
            error = old - new
            work[..., row, column + 1] += error * np.float32(7 / 16)
            work[..., row + 1, column - 1] += error * np.float32(3 / 16)
            work[..., row + 1, column] += error * np.float32(5 / 16)
            work[..., row + 1, column + 1] += error * np.float32(1 / 16)
    return work[:, :, :height, 1 : width + 1]
