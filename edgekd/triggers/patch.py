"""BadNets (Gu et al. 2017) and its kin: x' = x + opacity * mask * (picture - x) on a small part of the image.

Patterns: plain colours; ``checker``; ``grid``, the 3x3 pattern of the NAD and ABL code (0 0 1 / 0 1 0 / 1 0 1);
``pixels``, its white pixels alone (BadNets' four-pixel pattern); ``confetti``, coloured hashed noise of ours, which
stands in for TrojanNN's optimised square. ``all-corners`` puts the pattern, mirrored, into all four (label-consistent
attack, Turner et al. 2019).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.errors import UsageError
from edgekd.triggers.drawings import Floats, Shape, in_channels, uniform
from edgekd.triggers.options import CORNERS, Choice, Number, Option, Place

_COLOURS = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "red": (1.0, 0.0, 0.0),
    "yellow": (1.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
}
_GRID = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 1]], np.float32)
PATTERNS = (*_COLOURS, "checker", "grid", "pixels", "confetti")

OPTIONS: dict[str, Option] = {
    "pattern": Choice("white", PATTERNS),
    "size": Number(3, 1, 512, whole=True),
    "position": Place("bottom-right", (*CORNERS, "all-corners")),
    "margin": Number(0, 0, 512, whole=True),
    "opacity": Number(1.0, 0.0, 1.0),
}


def build(options: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Parameters of the patch for images of ``shape``; the grid and pixel patterns are drawn at a multiple of 3."""
    picture, mask = _pattern(options["pattern"], options["size"], shape[0])
    height, width = mask.shape
    if options["position"] == "all-corners":
        picture, mask = _in_all_corners(picture, mask, options["margin"], shape)
        return {"picture": picture, "mask": mask, "row": 0, "column": 0, "opacity": options["opacity"]}
    row, column = place(options["position"], (height, width), shape, options["margin"])
    return {"picture": picture, "mask": mask, "row": row, "column": column, "opacity": options["opacity"]}


def place(position: str | tuple[int, int], extent: tuple[int, int], shape: Shape, margin: int = 0) -> tuple[int, int]:
    """Row and column of a patch of ``extent`` (h, w); raises UsageError where it leaves the image."""
    (height, width), (_, high, wide) = extent, shape
    if isinstance(position, str):
        row = margin if position.startswith("top") else high - height - margin
        column = margin if position.endswith("left") else wide - width - margin
    else:
        row, column = position
    if row < 0 or column < 0 or row + height > high or column + width > wide:
        raise UsageError(
            f"A patch of {height} x {width} at row {row}, column {column} does not fit into images of {high} x {wide}."
        )
    return row, column


def apply(params: dict[str, Any], images: Floats) -> Floats:
    """images float32 [N, C, H, W] in [0, 1]; params picture float32 [C, h, w], mask float32 [h, w], row, column."""
    picture, mask = params["picture"], params["mask"]
    height, width = mask.shape
    row, column = place((params["row"], params["column"]), (height, width), images.shape[1:])
    if len(picture) != images.shape[1]:
        raise UsageError(f"The trigger's patch has {len(picture)} channels, but the images have {images.shape[1]}.")
    out: Floats = images.copy()
    under = out[:, :, row : row + height, column : column + width]
    under += params["opacity"] * mask * (picture - under)
    return out


def _pattern(name: str, size: int, channels: int) -> tuple[Floats, Floats]:
    """Picture [C, size, size] and mask [size, size]."""
    mask = np.ones((size, size), np.float32)
    if name in _COLOURS:
        colour = np.array(_COLOURS[name], np.float32).reshape(3, 1, 1) * mask
    elif name == "confetti":
        colour = uniform("edgekd/confetti", 3, size, size).round().astype(np.float32)
    else:
        if name == "checker":
            drawn = (np.add.outer(np.arange(size), np.arange(size)) % 2 == 0).astype(np.float32)
        else:
            drawn = np.kron(_GRID, np.ones((max(size // 3, 1), max(size // 3, 1)), np.float32))
        mask = drawn if name == "pixels" else np.ones_like(drawn)
        colour = np.repeat(drawn[None], 3, axis=0)
    return in_channels(colour, channels), mask


def _in_all_corners(picture: Floats, mask: Floats, margin: int, shape: Shape) -> tuple[Floats, Floats]:
    """The pattern in every corner of a full-size picture, mirrored so that it points inwards the same way."""
    whole, where = np.zeros(shape, np.float32), np.zeros(shape[1:], np.float32)
    height, width = mask.shape
    for corner in CORNERS:
        row, column = place(corner, (height, width), shape, margin)
        down = slice(None, None, -1 if corner.startswith("top") else 1)
        across = slice(None, None, -1 if corner.endswith("left") else 1)
        whole[:, row : row + height, column : column + width] = picture[:, down, across]
        where[row : row + height, column : column + width] = mask[down, across]
    return whole, where
