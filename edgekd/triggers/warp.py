"""WaNet (Nguyen and Tran 2021): a smooth random warp.

Control points P ~ U(-1, 1) of [2, k, k], divided by mean |P|, bicubic to [2, H, W]; grid = identity + strength *
field / side, clipped to [-1, 1]; bilinear sampling, corners aligned. The first channel moves along the width.
Ours: on images that are not square each axis is divided by its own extent.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd.triggers.drawings import Floats, Shape, uniform
from edgekd.triggers.options import Number, Option

OPTIONS: dict[str, Option] = {
    "seed": Number(0, 0, 2**31, whole=True),
    "cells": Number(4, 2, 64, whole=True),
    "strength": Number(0.5, 0.0, 16.0),
}


def build(options: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Control points float32 [2, k, k] from the seed, and the strength."""
    control = 2 * uniform(f"edgekd/warp/{options['seed']}", 2, options["cells"], options["cells"]) - 1
    control /= np.abs(control).mean()
    return {"control": control.astype(np.float32), "strength": options["strength"]}


def apply(params: dict[str, Any], images: Floats) -> Floats:
    """images float32 [N, C, H, W] in [0, 1]; params control float32 [2, k, k], strength."""
    import torch

    moved = sample(torch.from_numpy(np.ascontiguousarray(images)), grid(params, *images.shape[2:]))
    return np.asarray(moved.numpy())


def grid(params: dict[str, Any], height: int, width: int) -> Any:
    """Where each pixel comes from, as a torch tensor float32 [H, W, 2] in [-1, 1], x first."""
    import torch
    from torch.nn import functional

    control = torch.from_numpy(params["control"])[None]
    field = functional.interpolate(control, (height, width), mode="bicubic", align_corners=True)[0]
    across, down = torch.linspace(-1, 1, width).expand(height, width), torch.linspace(-1, 1, height)[:, None]
    moved = (across + params["strength"] * field[0] / width, down + params["strength"] * field[1] / height)
    return torch.stack(moved, -1).clamp(-1, 1)


def sample(images: Any, where: Any) -> Any:
    """Torch images float [N, C, H, W] read bilinearly at ``where``, [H, W, 2] or one per image [N, H, W, 2]."""
    from torch.nn import functional

    return functional.grid_sample(images, where.expand(len(images), *where.shape[-3:]), align_corners=True)
