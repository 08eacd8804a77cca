"""One trigger file: ``.npz`` with a and b or with a generator's weights, a PNG or JPEG patch, a blended picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import UsageError
from edgekd.triggers.drawings import Floats, Shape
from edgekd.triggers.options import Number, Place, known_only
from edgekd.triggers.patch import place
from edgekd_device import pictures
from edgekd_device.arrays import read_npz

Position = str | tuple[int, int]
_LIMIT_BYTES = 256 << 20


def read(path: Path, shape: Shape, opacity: float | None, position: Position | None) -> tuple[str, dict[str, Any]]:
    """Family and parameters of the trigger in one file; raises UsageError or UnsafeInput."""
    suffix = path.suffix.lower()
    if opacity is not None:
        opacity = Number(1.0, 0.0, 1.0).check(f"The opacity of {path.name}", opacity)
    if position is not None:
        position = Place("").check(f"The position of {path.name}", position)
    if suffix == ".npz":
        if opacity is not None or position is not None:
            raise UsageError(
                f"{path} already says where the trigger goes and how strong it is. Leave opacity and position out."
            )
        arrays = read_npz(path, limit_bytes=_LIMIT_BYTES)
        if "bound" in arrays:
            from edgekd.triggers import generator

            return "generator", generator.from_arrays(arrays, shape[0], str(path))
        return "affine", _affine(arrays, path, shape)
    if suffix in pictures.SUFFIXES:
        return _picture(path, shape, opacity, position)
    raise UsageError(f"{path} is not a trigger file: expected .npz (a, b), a PNG or JPEG picture, or a .yaml list.")


def _affine(arrays: dict[str, np.ndarray], path: Path, shape: Shape) -> dict[str, np.ndarray]:
    known_only(str(path), arrays, ("a", "b"), "array")
    channels, height, width = shape
    params: dict[str, np.ndarray] = {}
    for name in ("a", "b"):
        if name not in arrays:
            raise UsageError(f"{path} lacks the array {name!r}; clip(a * x + b) needs a and b.")
        array = arrays[name]
        if array.dtype.kind not in "fiu":
            raise UsageError(f"The array {name!r} of {path} is {array.dtype}, expected float32.")
        array = array[..., None] if array.ndim == 2 else array
        if array.shape != (height, width, channels):
            raise UsageError(
                f"The array {name!r} of {path} has the shape {list(array.shape)}, but the model's input is "
                f"{[height, width, channels]} (height, width, channels)."
            )
        if not np.isfinite(array).all():
            raise UsageError(f"The array {name!r} of {path} holds NaN or infinity.")
        if np.abs(array).max() > 16:
            raise UsageError(
                f"The array {name!r} of {path} goes up to {np.abs(array).max():g}; a and b are for images in [0, 1]. "
                "Divide b by 255 if it was made for 0 to 255."
            )
        params[name] = np.ascontiguousarray(array.transpose(2, 0, 1), np.float32)
    if (params["a"] == 1).all() and (params["b"] == 0).all():
        raise UsageError(f"The trigger {path} changes nothing: a is 1 and b is 0 everywhere.")
    return params


def _picture(path: Path, shape: Shape, opacity: float | None, position: Position | None) -> tuple[str, dict[str, Any]]:
    """A patch where a position is given or the picture is smaller than the image, else a blend."""
    channels, height, width = shape
    drawn = pictures.decode(path)
    if opacity == 0:
        raise UsageError(f"The trigger {path} changes nothing at an opacity of 0.")
    smaller = drawn.height < height or drawn.width < width
    if position is None and opacity is None:
        raise UsageError(
            f"{path} is {drawn.height} x {drawn.width}: give its position (row, column or a corner) as a patch"
            + ("." if smaller else ", or its opacity to blend it over the whole image (the Blended attack's is 0.2).")
        )
    mask = np.ones((drawn.height, drawn.width), np.float32)
    if position is not None and drawn.mode == "RGBA":
        mask = pictures.pixels(drawn)[..., 3].astype(np.float32) / 255
    elif drawn.mode == "RGBA":
        raise UsageError(f"{path} has transparent pixels and would be blended. Flatten it, or give its position.")
    drawn = drawn.convert("L" if channels == 1 else "RGB")
    if position is None:
        # Pillow's own default filter, as the attacks' code resizes such pictures
        drawn = drawn if drawn.size == (width, height) else drawn.resize((width, height))
        return "blend", {"picture": _unit(drawn), "opacity": opacity}
    row, column = place(position, mask.shape, shape)
    params = {"picture": _unit(drawn), "mask": mask, "row": row, "column": column}
    return "patch", {**params, "opacity": 1.0 if opacity is None else opacity}


def _unit(picture: Any) -> Floats:
    """float32 [C, H, W] in [0, 1]."""
    planes: Floats = pictures.pixels(picture).transpose(2, 0, 1).astype(np.float32, order="C") / np.float32(255)
    return planes


def plain_name(name: Any) -> str:
    """The name itself; raises UsageError unless it is 1 to 128 printable characters."""
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 128:
        raise UsageError(f"{name!r} is not a valid trigger name: expected 1 to 128 printable characters.")
    return name
