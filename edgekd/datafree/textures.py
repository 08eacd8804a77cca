"""Procedural pictures, crowded with edges, colours and scales: what patches are cut from where no photograph is given."""

from __future__ import annotations

import numpy as np

from ..data.streams import stream

SIDE, LEAVES, LEAST, LARGEST = 384, 800, 6.0, 140.0
PERIODS = (3.0, 24.0)  # of a leaf's stripes, in pixels


def pictures(count: int, seed: int, side: int = SIDE) -> list[np.ndarray]:
    """``count`` pictures uint8 [side, side, 3] of dead leaves: shapes of all sizes that hide one another.

    Radii follow r^-3 between 6 and 140 pixels, as in the dead leaves model of natural images (Lee, Mumford and Huang 2001);
    each leaf has a colour, a shading, stripes and grain of its own.
    """
    return [_leaves(stream(seed, "texture", number), side) for number in range(count)]


def _leaves(random: np.random.Generator, side: int) -> np.ndarray:
    picture = np.empty((side, side, 3), np.float32)
    picture[:] = _colour(random)
    radii = _radii(random, LEAVES)
    for radius in np.sort(radii)[::-1][: LEAVES // 3]:  # large ones first, else little of the small is left
        _paint(picture, random, radius)
    for radius in radii:
        _paint(picture, random, min(radius, LARGEST / 3))
    found: np.ndarray = np.clip(picture * 255, 0, 255).round().astype(np.uint8)
    return found


def _radii(random: np.random.Generator, count: int) -> np.ndarray:
    """From a density r^-3 between LEAST and LARGEST, by its inverse."""
    low, high = LEAST**-2, LARGEST**-2
    found: np.ndarray = (low + random.random(count) * (high - low)) ** -0.5
    return found


def _colour(random: np.random.Generator) -> np.ndarray:
    """Mostly dull, as colours outdoors are."""
    grey, chroma = 0.08 + 0.84 * random.random(), 0.22 * random.random()
    hue = random.standard_normal(3)
    found: np.ndarray = (grey + chroma * (hue - hue.mean())).astype(np.float32)
    return found


def _paint(picture: np.ndarray, random: np.random.Generator, radius: float) -> None:
    """One leaf at a random place, drawn over what is there."""
    side = len(picture)
    row, column = random.random(2) * side
    reach = int(np.ceil(1.5 * radius))
    rows = np.arange(max(0, int(row) - reach), min(side, int(row) + reach + 1))
    columns = np.arange(max(0, int(column) - reach), min(side, int(column) + reach + 1))
    angle, stretch, period = 2 * np.pi * random.random(), 0.4 + 0.6 * random.random(), random.uniform(*PERIODS)
    down, right = (rows - row)[:, None], (columns - column)[None]
    along, across = down * np.cos(angle) + right * np.sin(angle), right * np.cos(angle) - down * np.sin(angle)
    power = (1.0, 2.0, 8.0)[int(3 * random.random())]  # a diamond, an ellipse, nearly a rectangle
    inside = (np.abs(along) / radius) ** power + (np.abs(across) / (stretch * radius)) ** power <= 1
    shade = 1 + 0.35 * random.standard_normal() * along / radius
    stripes = 0.15 * random.random() * np.sin(2 * np.pi * along / period)
    grain = 0.05 * random.random() * random.standard_normal(inside.shape)
    leaf = _colour(random) * shade[..., None] + (stripes + grain)[..., None] * (0.5 + random.random(3))
    part = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) and len(columns) else None
    if part is not None:
        part[inside] = leaf[inside]
