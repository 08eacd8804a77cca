"""Refool-like (Liu et al. 2020): the faint reflection of a second picture, out of focus or doubled ("ghost").

Ours: the reflected picture is drawn, not a photograph, and its blur and shift are fixed instead of drawn per image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.triggers import blend
from edgekd.triggers.drawings import PICTURES, Shape, draw, smooth
from edgekd.triggers.options import Choice, Number, Option

OPTIONS: dict[str, Option] = {
    "picture": Choice("shapes", PICTURES),
    "style": Choice("focus", ("focus", "ghost")),
    "opacity": Number(0.4, 0.0, 1.0),
}

apply = blend.apply


def build(options: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Parameters of the blend: the picture blurred by 1/16 of its side, or itself plus a shifted copy, 60 to 40."""
    picture, side = draw(options["picture"], shape), min(shape[1:])
    if options["style"] == "focus":
        seen = smooth(picture, side / 16)
    else:
        shift = max(side // 10, 1)
        seen = 0.6 * picture + 0.4 * np.roll(picture, (shift, shift), axis=(1, 2))
    return {"picture": np.clip(seen, 0, 1).astype(np.float32), "opacity": options["opacity"]}
