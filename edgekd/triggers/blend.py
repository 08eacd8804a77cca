"""Blended (Chen et al. 2017): x' = (1 - opacity) * x + opacity * picture, over the whole image."""

from __future__ import annotations

from typing import Any

from edgekd.errors import UsageError
from edgekd.triggers.drawings import NOISE, PICTURES, Floats, Shape, draw
from edgekd.triggers.options import Choice, Number, Option

OPTIONS: dict[str, Option] = {"picture": Choice("clouds", (*PICTURES, NOISE)), "opacity": Number(0.2, 0.0, 1.0)}


def build(options: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Parameters with one of our own pictures at the size of ``shape``."""
    return {"picture": draw(options["picture"], shape), "opacity": options["opacity"]}


def apply(params: dict[str, Any], images: Floats) -> Floats:
    """images float32 [N, C, H, W] in [0, 1]; params picture float32 [C, H, W], opacity in [0, 1]."""
    picture, opacity = params["picture"], params["opacity"]
    if picture.shape != images.shape[1:]:
        raise UsageError(
            f"The trigger's picture is {list(picture.shape)}, but the images are {list(images.shape[1:])}."
        )
    blended: Floats = (1 - opacity) * images + opacity * picture
    return blended
