"""SIG (Barni et al. 2019): x' = x + delta/255 * sin(2 pi j f / W), j the column, so the wave runs along the width."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.triggers.drawings import Floats, Shape
from edgekd.triggers.options import Number, Option

OPTIONS: dict[str, Option] = {"delta": Number(40.0, 0.0, 255.0), "frequency": Number(6.0, 0.0, 1000.0)}


def build(options: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The options themselves; the wave fits any size."""
    return dict(options)


def apply(params: dict[str, Any], images: Floats) -> Floats:
    """images float32 [N, C, H, W] in [0, 1]; params delta on the 0-255 scale, frequency in periods per width."""
    width = images.shape[3]
    angle = 2 * np.pi * np.arange(width) * params["frequency"] / width
    waved: Floats = images + (np.sin(angle) * params["delta"] / 255).astype(np.float32)
    return waved
