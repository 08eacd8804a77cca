"""Our own pictures for blends, patches and reflections: drawn from formulas and hashed noise, the same everywhere."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Shape = tuple[int, int, int]  # channels, height, width
PICTURES = ("clouds", "waves", "mosaic", "shapes")
NOISE = "noise"  # hard-edged, so no canary: what attackers blend in


def uniform(name: str, *shape: int) -> NDArray[np.float64]:
    """float64 in [0, 1) of ``shape``, from SHAKE-256 of the name: no generator whose stream could change."""
    count = int(np.prod(shape))
    raw = np.frombuffer(hashlib.shake_256(name.encode()).digest(8 * count), dtype="<u8")
    values: NDArray[np.float64] = (raw >> np.uint64(11)) * 2.0**-53
    return values.reshape(shape)


def draw(name: str, shape: Shape) -> Floats:
    """The picture called ``name`` (one of PICTURES, or NOISE) as float32 [C, H, W] in [0, 1].

    All PICTURES are soft, as photographs are. Hard-edged pictures throw clean networks into one class, whichever, and a canary
    that does so says nothing about backdoored ones (tests/unit/audit/test_third_party_battery.py holds them to it).
    """
    channels, height, width = shape
    down, across = np.mgrid[0:height, 0:width]
    down, across = (down + 0.5) / height, (across + 0.5) / width
    side = min(height, width)
    colour: NDArray[Any]
    if name == "clouds":
        colour = smooth(uniform("edgekd/clouds", 3, height, width), side / 32)
        colour -= colour.min(axis=(1, 2), keepdims=True)
        colour /= colour.max(axis=(1, 2), keepdims=True)
    elif name == "waves":
        phase = np.arange(3).reshape(3, 1, 1) / 3
        colour = 0.5 + 0.5 * np.sin(2 * np.pi * (1.2 * across + 0.7 * down + 0.3 * np.sin(2 * np.pi * down) + phase))
    elif name == "mosaic":
        colour = uniform("edgekd/mosaic", 3, 4, 4)[:, (down * 4).astype(int), (across * 4).astype(int)]
    elif name == NOISE:
        colour = uniform("edgekd/noise", 3, height, width)
    elif name == "shapes":
        red = 0.05 + 0.9 * (np.hypot(down - 0.4, across - 0.6) < 0.3)
        green = 0.1 + 0.8 * (np.hypot(down - 0.65, across - 0.35) < 0.25)
        blue = 0.1 + 0.8 * (np.abs(down - across) < 0.15)
        colour = np.clip(smooth(np.stack([red, green, blue]), side / 32), 0, 1)
    else:
        raise ValueError(f"no picture {name!r}")
    return in_channels(colour, channels)


def in_channels(colour: NDArray[Any], channels: int) -> Floats:
    """A picture [3, H, W] as float32 [3, H, W], or [1, H, W] by the luma weights of ITU-R 601."""
    if channels == 3:
        return colour.astype(np.float32)
    luma: NDArray[Any] = np.tensordot(np.array([[0.299, 0.587, 0.114]]), colour, 1)
    return luma.astype(np.float32)


def watermark(shape: Shape) -> Floats:
    """A mask float32 [H, W] of 0 and 1: a ring, two bars and a diagonal stroke, covering about a quarter."""
    _, height, width = shape
    down, across = np.mgrid[0:height, 0:width]
    down, across = (down + 0.5) / height, (across + 0.5) / width
    ring = np.abs(np.hypot(down - 0.35, across - 0.35) - 0.2) < 0.05
    bars = (np.abs(down - 0.75) < 0.03) | (np.abs(down - 0.87) < 0.03)
    stroke = (np.abs(down + across - 1.25) < 0.06) & (across > 0.55) & (down > 0.1)
    mask: NDArray[Any] = ring | (bars & (np.abs(across - 0.5) < 0.38)) | stroke
    return mask.astype(np.float32)


def smooth(image: NDArray[Any], sigma: float) -> Floats:
    """Gaussian blur of float [C, H, W] with wrap-around, ``sigma`` in pixels; float32."""
    blurred: NDArray[Any] = np.fft.ifft2(np.fft.fft2(image) * low_pass(image.shape[1:], sigma))
    return blurred.real.astype(np.float32)


def low_pass(size: tuple[int, ...], sigma: float) -> NDArray[Any]:
    """What that blur multiplies each frequency by, float64 [H, W]."""
    rows, columns = np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])[None, :]
    gain: NDArray[Any] = np.exp(-2 * (np.pi * sigma) ** 2 * (rows**2 + columns**2))
    return gain
