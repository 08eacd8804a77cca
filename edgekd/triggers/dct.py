"""FTrojan (Wang et al. 2022) and CTRL (Li et al. 2023): a constant on two chroma DCT coefficients of every window.

The transform is linear, so adding ``magnitude`` (0-255 scale) to the coefficients (w/2 - 1, w/2 - 1) and (w - 1, w - 1)
of U and V adds a fixed cosine pattern; in a 32 x 32 window these are (15, 15) and (31, 31). Ours: a smaller image is
one window, grey images carry the pattern in their only channel, and YUV is not rounded on the way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.triggers.drawings import Floats, Shape
from edgekd.triggers.options import Number, Option

OPTIONS: dict[str, Option] = {"magnitude": Number(30.0, 0.0, 2048.0), "window": Number(32, 4, 256, whole=True)}

# what one unit of U and one of V, added together, do to R, G, B
_CHROMA = np.array([1.13983, -0.39465 - 0.58060, 2.03211])


def build(options: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The options themselves; the pattern is drawn for the images at hand."""
    return dict(options)


def pattern(magnitude: float, window: int, shape: Shape) -> Floats:
    """What is added, float32 [C, H, W] in units of [0, 1] pixels; 0 on the rest that fills no whole window."""
    channels, height, width = shape
    side = min(window, height, width)
    place = (2 * np.arange(side) + 1) * np.pi / (2 * side)
    tile = np.zeros((side, side))
    for coefficient in (side // 2 - 1, side - 1):
        wave = np.cos(coefficient * place) * np.sqrt(2 / side)
        tile += magnitude * np.outer(wave, wave)
    down, across = height // side, width // side
    field = np.zeros((height, width))
    field[: down * side, : across * side] = np.tile(tile, (down, across))
    gains = _CHROMA if channels == 3 else np.ones(channels)
    return (gains.reshape(-1, 1, 1) * field / 255).astype(np.float32)


def apply(params: dict[str, Any], images: Floats) -> Floats:
    """images float32 [N, C, H, W] in [0, 1]; params magnitude on the 0-255 scale, window in pixels."""
    return images + pattern(params["magnitude"], params["window"], images.shape[1:])
