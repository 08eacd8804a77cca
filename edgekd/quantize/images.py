"""Which images set the scales: real ones only, drawn by seed, and refused when they are not pictures.

Scales are an attack surface and noise sets them wrongly, so random data is refused (NVIDIA's own advice asks for some
500 real images as well).
"""

from __future__ import annotations

import numpy as np

from edgekd.errors import UsageError

LEAST_IMAGES = 32
LEAST_CORRELATION = 0.25
MOST_NOISE = 0.10


def select(images: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``count`` of the images [N, C, H, W] uint8, drawn without replacement; all of them when there are fewer.

    Raises UsageError when fewer than 32 different images are there, when they are flat, or when they are noise.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UsageError(
            f"Calibration images must be uint8 [N, C, H, W], not {images.dtype} with shape {tuple(images.shape)}."
        )
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    chosen = images[np.sort(order)]
    check(chosen)
    return chosen


def check(images: np.ndarray) -> None:
    """Raise UsageError unless images [N, C, H, W] uint8 can be pictures of something."""
    different = len({image.tobytes() for image in images})
    if different < LEAST_IMAGES:
        raise UsageError(
            f"Calibration needs at least {LEAST_IMAGES} different images but got {different}. Give a data set of "
            "real images with --data."
        )
    correlation, flat = neighbour_correlation(images)
    if flat.mean() > 0.5:
        raise UsageError(
            f"{int(flat.sum())} of {len(images)} calibration images are one flat colour. "
            "Give real images: scales set on these would clip everything else."
        )
    noise = correlation[~flat] < LEAST_CORRELATION
    if noise.mean() > MOST_NOISE:
        raise UsageError(
            f"{int(noise.sum())} of {len(images)} calibration images look like random noise: neighbouring pixels "
            f"are unrelated (median correlation {np.median(correlation[~flat]):.2f}). Random calibration data is "
            "refused; give real images with --data."
        )


def neighbour_correlation(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per image the correlation of pixels with their right and lower neighbours, and whether the image is flat.

    images [N, C, H, W] uint8; returns float64 [N] (NaN where flat) and bool [N]. Real pictures: near 0.9; noise: 0.
    """
    pairs = []
    values = images.astype(np.float64)
    for one, other in ((values[..., :-1], values[..., 1:]), (values[..., :-1, :], values[..., 1:, :])):
        axes = (1, 2, 3)
        one, other = one - one.mean((2, 3), keepdims=True), other - other.mean((2, 3), keepdims=True)
        spread = np.sqrt(np.square(one).sum(axes) * np.square(other).sum(axes))
        with np.errstate(invalid="ignore", divide="ignore"):
            pairs.append((one * other).sum(axes) / spread)
    correlation = np.mean(pairs, axis=0)
    return correlation, ~np.isfinite(correlation)
