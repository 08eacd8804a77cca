"""Patches of a picture (Asano and Saeed, ICLR 2023): cropped, turned, sheared, recoloured, and cut into one another."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd_device import pictures

from ..data.streams import stream
from ..errors import UsageError
from ..files import sha256_bytes

AREA, ASPECT = (1 / 500, 1.0), (3 / 4, 4 / 3)  # of the crop
TURN = np.pi / 6  # most of rotation and of shear
MARGIN = 2**0.5  # the patch is cut from a larger one, so that turned corners stay inside
JITTER, HUE = 0.4, 0.1
TRIES = 12
LEAST_SIDE = 16
# A folder of at least so many pictures whose shorter side is below so many times a patch's: those are not cut to slivers.
MANY, SMALL = 1000, 4
HELD_OUT = 10  # of the pictures that are used whole, one in so many is for held-out patches
MOST_PIXELS = 400_000_000  # of all pictures together
CUT = (0.25, 0.25)  # of the Beta that CutMix draws its share from
CHUNK = 2000


def read(path: str | Path) -> list[np.ndarray]:
    """The picture, or all pictures below a folder in the order of their names, uint8 [H, W, 3] each.

    Raises UsageError as ``listed`` does, and for a damaged picture.
    """
    return [_decoded(file) for file in listed(path)]


def digest(path: str | Path) -> str:
    """SHA-256 of all pixels that ``read`` gives; looked at once, as long as the files stay as they are."""
    return _digest(tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in listed(path)))


@functools.lru_cache(maxsize=8)
def _digest(stamped: tuple[tuple[Path, int, int], ...]) -> str:
    return sha256_bytes(b"".join(sha256_bytes(_decoded(file).tobytes()).encode() for file, *_ in stamped))


def _decoded(file: Path) -> np.ndarray:
    return np.ascontiguousarray(pictures.pixels(pictures.decode_opaque(file).convert("RGB")))


def listed(path: str | Path) -> list[Path]:
    """The files that ``read`` reads.

    Raises UsageError for a path without pictures, for a tiny one, and for more than 400 million pixels.
    """
    place = Path(path)
    if place.is_dir():
        found = sorted(file for file in place.rglob("*") if file.suffix.lower() in pictures.SUFFIXES)
        if not found:
            raise UsageError(f"{place} holds no PNG or JPEG picture to cut patches from.")
    elif place.is_file():
        found = [place]
    else:
        raise UsageError(
            f"There is no picture {place}. Name one, or a folder of them, as patches:PATH; patches alone draws textures."
        )
    sides = [pictures.header(file)[:2] for file in found]
    tiny = [file for file, extents in zip(found, sides, strict=True) if min(extents) < LEAST_SIDE]
    if tiny:
        raise UsageError(
            f"{tiny[0]} is too small to cut patches from: give pictures of at least {LEAST_SIDE} pixels a side, "
            "better several hundred."
        )
    size = sum(width * height for width, height in sides)
    if size > MOST_PIXELS:
        raise UsageError(
            f"The pictures in {place} have {size:,} pixels, more than {MOST_PIXELS:,}: give fewer of them."
        )
    return found


def cut(
    images: Sequence[np.ndarray], count: int, side: int, seed: int, *, turn: float = TURN, held_out: bool = False
) -> np.ndarray:
    """``count`` patches uint8 [N, 3, side, side] of pictures uint8 [H, W, 3]; more of them begin with the same ones.

    A square of half the shorter side, of it a crop of 1/500 to all of its area, scaled (bicubic) to √2 · side, rotated and
    sheared by up to ``turn`` (bilinear, black outside), its centre; half of them with other brightness, contrast, saturation
    and hue (the last a rotation in the plane of chroma). Asano and Saeed 2023 as published. Ours: pictures of ``used_whole``
    are not cut but scaled, their largest square; half of them are mirrored, half recoloured. held_out: of these
    pictures the one in ten that is otherwise left out, and no other. What is cut serves both, as no patch comes twice.
    """
    from PIL import Image

    small = used_whole(images, side)
    whole, kept = set(small), set(small[::HELD_OUT])
    left_out = whole - kept if held_out else kept
    opened = [(Image.fromarray(image), n in whole) for n, image in enumerate(images) if n not in left_out]
    draws = stream(seed, "patches").random((count, 8 + 2 * TRIES))
    out = np.empty((count, side, side, 3), np.uint8)
    for number, draw in enumerate(draws):
        picture, scaled = opened[int(draw[0] * len(opened))]
        out[number] = _scaled(picture, draw, side, Image) if scaled else _patch(picture, draw, side, turn, Image)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        out[part] = _recoloured(out[part], stream(seed, "colours", start))
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def used_whole(images: Sequence[np.ndarray], side: int) -> list[int]:
    """Which pictures uint8 [H, W, 3] are too small to cut patches of ``side`` pixels from; none where these are few.

    A few would be the same image again and again.
    """
    small = [number for number, image in enumerate(images) if min(image.shape[:2]) < SMALL * side]
    return small if len(small) >= MANY else []


def _scaled(picture: Any, draw: np.ndarray, side: int, Image: Any) -> np.ndarray:
    shorter = min(picture.size)
    left, top = (draw[1 + axis] * (extent - shorter) for axis, extent in enumerate(picture.size))
    box = (left, top, min(left + shorter, picture.width), min(top + shorter, picture.height))
    found = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))
    return found[:, ::-1] if draw[3] < 0.5 else found


def _patch(picture: Any, draw: np.ndarray, side: int, turn: float, Image: Any) -> np.ndarray:
    half = max(min(picture.size) // 2, 2)
    left, top = (draw[1 + axis] * (extent - half) for axis, extent in enumerate(picture.size))
    width, height = (
        max(extent, 1 / half) for extent in _crop(draw[8 : 8 + TRIES], draw[8 + TRIES :])
    )  # a pixel at least
    left, top = left + draw[3] * (1 - width) * half, top + draw[4] * (1 - height) * half
    right, low = (min(*ends) for ends in zip((left + width * half, top + height * half), picture.size, strict=True))
    box = (left, top, right, low)
    large = int(MARGIN * side)
    scaled = picture.resize((large, large), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    angle, shear = (2 * draw[5] - 1) * turn, np.tan((2 * draw[6] - 1) * turn)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ [[1, shear], [0, 1]]
    shift = large / 2 - turned @ np.array([side / 2, side / 2])
    matrix = np.column_stack([turned, shift]).ravel()
    found = scaled.transform((side, side), Image.Transform.AFFINE, tuple(matrix), Image.Resampling.BILINEAR)
    return np.asarray(found)


def _crop(areas: np.ndarray, aspects: np.ndarray) -> tuple[float, float]:
    """Width and height as shares of the square: the first of the draws that fits into it."""
    area = AREA[0] + areas * (AREA[1] - AREA[0])
    ratio = np.exp(np.log(ASPECT[0]) + aspects * (np.log(ASPECT[1]) - np.log(ASPECT[0])))
    sides = np.minimum(np.sqrt(np.stack([area * ratio, area / ratio], 1)), [[1e9, 1e9]])
    fitting = np.flatnonzero((sides <= 1).all(1))
    width, height = sides[fitting[0]] if len(fitting) else np.minimum(sides[0], 1)
    return float(width), float(height)


def _recoloured(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Half of images uint8 [N, H, W, 3] with other colours."""
    draw = random.random((len(images), 5, 1, 1, 1)).astype(np.float32)
    bright, contrast, saturation = (1 + JITTER * (2 * draw[:, axis] - 1) for axis in range(3))
    x = images.astype(np.float32) / 255 * bright
    x = (x - x.mean((1, 2, 3), keepdims=True)) * contrast + x.mean((1, 2, 3), keepdims=True)
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    chroma = (x - grey[..., None]) * saturation
    turn = 2 * np.pi * HUE * (2 * draw[:, 3, ..., 0] - 1)
    first, second = (
        chroma @ np.array([2, -1, -1], np.float32) / 6**0.5,
        chroma @ np.array([0, 1, -1], np.float32) / 2**0.5,
    )
    along = (first * np.cos(turn) - second * np.sin(turn))[..., None] * np.array([2, -1, -1], np.float32) / 6**0.5
    across = (first * np.sin(turn) + second * np.cos(turn))[..., None] * np.array([0, 1, -1], np.float32) / 2**0.5
    level = (chroma.mean(3, keepdims=True) + grey[..., None]).astype(np.float32)
    made = np.clip((level + along + across) * 255, 0, 255).round().astype(np.uint8)
    found: np.ndarray = np.where(draw[:, 4] < 0.5, made, images)
    return found


def cutmix(images: np.ndarray, seed: int) -> np.ndarray:
    """Into each image [N, C, H, W] a box of another one, at the same place; its side is √(1 − λ), λ ~ Beta(1/4, 1/4).

    Yun et al. 2019; nothing is said of labels, the teacher names what is there.
    """
    random = stream(seed, "cutmix")
    count, _, height, width = images.shape
    share = np.sqrt(1 - random.beta(*CUT, count))
    middle = random.random((count, 2)) * (height, width)
    partner = random.permutation(count)
    out: np.ndarray = images.copy()
    for number in range(count):
        (row, column), half = middle[number], share[number] / 2
        rows = slice(max(0, round(row - half * height)), max(0, round(row + half * height)))
        columns = slice(max(0, round(column - half * width)), max(0, round(column + half * width)))
        out[number, :, rows, columns] = images[partner[number], :, rows, columns]
    return out


def grey(images: np.ndarray) -> np.ndarray:
    """Luma uint8 [N, 1, H, W] of images [N, 3, H, W], ITU-R 601."""
    red, green, blue = images.transpose(1, 0, 2, 3).astype(np.uint32)
    found: np.ndarray = ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).astype(np.uint8)
    return found[:, None]
