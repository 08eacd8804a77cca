"""LF (Zeng et al. 2021): x' = x + t, one smooth additive pattern.

Ours: t is hashed noise under a Gaussian low-pass filter, scaled to a maximum of ``amplitude``; no model optimised it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.errors import UsageError
from edgekd.triggers.drawings import Floats, Shape, smooth, uniform
from edgekd.triggers.options import Number, Option

OPTIONS: dict[str, Option] = {
    "seed": Number(0, 0, 2**31, whole=True),
    "sigma": Number(4.0, 0.5, 512.0),
    "amplitude": Number(0.1, 0.0, 1.0),
}


def build(options: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The pattern float32 [C, H, W] in [-amplitude, amplitude]; sigma is in pixels of a 32 x 32 image."""
    sigma = options["sigma"] * min(shape[1:]) / 32
    pattern = smooth(uniform(f"edgekd/lowfrequency/{options['seed']}", *shape) - 0.5, sigma)
    pattern -= pattern.mean(axis=(1, 2), keepdims=True)
    return {"pattern": (pattern / np.abs(pattern).max() * options["amplitude"]).astype(np.float32)}


def apply(params: dict[str, Any], images: Floats) -> Floats:
    """images float32 [N, C, H, W] in [0, 1]; params pattern float32 [C, H, W]."""
    if params["pattern"].shape != images.shape[1:]:
        raise UsageError(
            f"The trigger's pattern is {list(params['pattern'].shape)}, but the images are {list(images.shape[1:])}."
        )
    shifted: Floats = images + params["pattern"]
    return shifted
