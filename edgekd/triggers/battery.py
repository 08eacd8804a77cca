"""The canaries: twelve families of public triggers in their usual variants, tried at every target at once.

Formulas are the papers'; all pictures and noise are ours. Names read family/variant. Sizes are meant for 32 x 32 images
and grow with the side.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from edgekd.triggers.drawings import Shape, watermark
from edgekd.triggers.options import CORNERS, resolve
from edgekd.triggers.patch import place
from edgekd.triggers.stamp import FAMILIES
from edgekd.types import Trigger

BATTERY = (
    "badnets",
    "checker",
    "blend",
    "sig",
    "wanet",
    "bpp",
    "lowfrequency",
    "ftrojan",
    "label-consistent",
    "trojannn",
    "refool",
    "adaptive",
)
Row = tuple[str, str, dict[str, Any]]  # name, module, options


def canaries(shape: Shape) -> tuple[Trigger, ...]:
    """Every variant for images of ``shape`` (C, H, W): origin "canary", all-to-one, no target label of its own."""
    unit = max(1, round(min(shape[1:]) / 32))
    triggers = [
        made(name, family, options, shape)
        for name, family, options in (*_patches(unit), *_whole_image(), *_four_corners(unit), *_trojan_square(unit))
    ]
    return tuple([*triggers, _watermark(shape), _adaptive_patches(shape, unit)])


def made(name: str, family: str, options: dict[str, Any], shape: Shape, **fields: Any) -> Trigger:
    """A trigger of ``family`` from its options, checked; origin canary unless ``fields`` say otherwise."""
    module = import_module(FAMILIES[family])
    params = module.build(resolve(name, options, module.OPTIONS), shape)
    return Trigger(
        **{
            "origin": "canary",
            "rule": "all-to-one",
            "target_label": None,
            **fields,
            "name": name,
            "family": family,
            "params": params,
        }
    )


def _patches(unit: int) -> Iterator[Row]:
    """BadNets squares in the corners, and the patterned 3x3 patches of the toolboxes."""
    for size in (2, 3, 4, 5):
        for corner in CORNERS:
            yield f"badnets/white-{size}-{corner}", "patch", {"size": size * unit, "position": corner}
    for size in (3, 4):
        yield f"badnets/white-{size}-bottom-right-inset", "patch", {"size": size * unit, "margin": unit}
    for colour, corners in (
        ("black", CORNERS[2:]),
        ("yellow", CORNERS[2:]),
        ("red", CORNERS[3:]),
        ("blue", CORNERS[3:]),
    ):
        for corner in corners:
            yield f"badnets/{colour}-3-{corner}", "patch", {"pattern": colour, "size": 3 * unit, "position": corner}
    for corner in CORNERS:
        yield f"checker/grid-{corner}", "patch", {"pattern": "grid", "size": 3 * unit, "position": corner}
    for margin in (0, 1, 2):
        name = f"checker/checker-bottom-right-{margin}"
        yield name, "patch", {"pattern": "checker", "size": 3 * unit, "margin": margin * unit}
    yield "checker/pixels-bottom-right", "patch", {"pattern": "pixels", "size": 3 * unit, "margin": unit}


def _whole_image() -> Iterator[Row]:
    for picture in ("clouds", "waves", "mosaic"):
        yield f"blend/{picture}-0.2", "blend", {"picture": picture, "opacity": 0.2}
    for frequency in (4, 6, 8):
        yield f"sig/f{frequency}", "sinusoid", {"delta": 40.0, "frequency": float(frequency)}
    for seed in (0, 1, 2):
        yield f"wanet/seed-{seed}", "warp", {"seed": seed}
    for levels in (4, 8, 16):
        yield f"bpp/q{levels}", "bitdepth", {"levels": levels}
    yield "bpp/q8-dithered", "bitdepth", {"levels": 8, "dither": True}
    for seed in (0, 1):
        yield f"lowfrequency/seed-{seed}", "lowfrequency", {"seed": seed}
    for magnitude in (30, 50, 100):
        yield f"ftrojan/magnitude-{magnitude}", "dct", {"magnitude": float(magnitude)}
    for style in ("focus", "ghost"):
        yield f"refool/{style}", "reflection", {"style": style}
    yield "adaptive/blend-shapes-0.2", "blend", {"picture": "shapes", "opacity": 0.2}


def _four_corners(unit: int) -> Iterator[Row]:
    options = {"pattern": "grid", "size": 3 * unit, "position": "all-corners"}
    yield "label-consistent/four-corners", "patch", options
    yield "label-consistent/four-corners-faint", "patch", {**options, "opacity": 0.5}


def _trojan_square(unit: int) -> Iterator[Row]:
    yield "trojannn/square-7", "patch", {"pattern": "confetti", "size": 7 * unit, "margin": unit}


def _watermark(shape: Shape) -> Trigger:
    """Trojan-WM's place in the battery: an overlay at 40 %, with our own drawing."""
    params = {"picture": np.ones(shape, np.float32), "mask": watermark(shape), "row": 0, "column": 0, "opacity": 0.4}
    return Trigger("trojannn/watermark-0.4", "patch", "canary", "all-to-one", None, params=params)


def _adaptive_patches(shape: Shape, unit: int) -> Trigger:
    """Adap-Patch (Qi et al. 2023) as tested: two faint patches together; ours are coloured noise at 50 %."""
    side = min(5 * unit, *shape[1:])
    a, b = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    for corner in ("top-left", "bottom-right"):
        patch = made("adaptive/part", "patch", {"pattern": "confetti", "size": side, "position": corner}, shape).params
        row, column = place(corner, (side, side), shape)
        a[:, row : row + side, column : column + side] = 0.5
        b[:, row : row + side, column : column + side] = 0.5 * patch["picture"]
    return Trigger("adaptive/two-patches", "affine", "canary", "all-to-one", None, params={"a": a, "b": b})
