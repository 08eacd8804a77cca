"""x' = clip(a * x + b): paste, additive and blended triggers in one form."""

from __future__ import annotations

from typing import Any

from edgekd.errors import UsageError
from edgekd.triggers.drawings import Floats
from edgekd.triggers.options import Option

OPTIONS: dict[str, Option] = {}


def apply(params: dict[str, Any], images: Floats) -> Floats:
    """images float32 [N, C, H, W] in [0, 1]; params a, b float32 [C, H, W]. Raises UsageError where shapes differ."""
    for name in ("a", "b"):
        if params[name].shape != images.shape[1:]:
            raise UsageError(
                f"The trigger's {name} is {list(params[name].shape)} (channels, height, width), but the images are "
                f"{list(images.shape[1:])}."
            )
    stamped: Floats = params["a"] * images + params["b"]
    return stamped
