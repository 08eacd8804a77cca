"""Each family against its formula in a few lines of numpy, on small images that one can work out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd import triggers
from edgekd.triggers import dct, drawings, warp
from edgekd.triggers.battery import made
from edgekd.types import Trigger

RANDOM = np.random.RandomState(2)
IMAGES = RANDOM.randint(0, 256, (4, 3, 32, 32)).astype(np.uint8)


def stamped(family: str, images: np.ndarray = IMAGES, **options: object) -> np.ndarray:
    return triggers.apply(made("t", family, options, images.shape[1:]), images)


def rounded(pixels: np.ndarray) -> np.ndarray:
    """Float pixels on the 0-255 scale to bytes."""
    return np.round(np.clip(pixels, 0, 255)).astype(np.uint8)


def test_affine() -> None:
    a, b = RANDOM.rand(3, 32, 32).astype(np.float32), RANDOM.rand(3, 32, 32).astype(np.float32)
    trigger = Trigger("t", "affine", "known", "all-to-one", 0, params={"a": a, "b": b})
    reference = np.clip(a * (IMAGES.astype(np.float32) / 255) + b, 0, 1) * 255
    assert (triggers.apply(trigger, IMAGES) == np.rint(reference)).all()


def test_patch_touches_its_square_only() -> None:
    after = stamped("patch", size=4, margin=1)
    assert (after[:, :, 27:31, 27:31] == 255).all()
    after[:, :, 27:31, 27:31] = IMAGES[:, :, 27:31, 27:31]
    assert (after == IMAGES).all()
    assert (stamped("patch", pattern="red", position=(2, 5))[0, :, 2, 5] == [255, 0, 0]).all()
    assert (stamped("patch", IMAGES[:, :1], pattern="yellow", size=1, position="top-left")[:, 0, 0, 0] == 226).all()


def test_patterns() -> None:
    black = np.zeros((1, 1, 6, 6), np.uint8)
    grid = [[0, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert (stamped("patch", black, pattern="grid")[0, 0, 3:, 3:] == np.array(grid) * 255).all()
    assert (stamped("patch", black + 9, pattern="grid")[0, 0, 3, 3]) == 0
    pixels = stamped("patch", black + 9, pattern="pixels")[0, 0, 3:, 3:]
    assert (pixels == np.where(np.array(grid) == 1, 255, 9)).all()
    checker = stamped("patch", black, pattern="checker")[0, 0, 3:, 3:]
    assert (checker == [[255, 0, 255], [0, 255, 0], [255, 0, 255]]).all()
    doubled = stamped("patch", np.zeros((1, 1, 8, 8), np.uint8), pattern="grid", size=6)[0, 0, 2:, 2:]
    assert (doubled == np.kron(grid, np.ones((2, 2))) * 255).all()


def test_all_corners_point_inwards() -> None:
    black = np.zeros((1, 1, 9, 9), np.uint8)
    after = stamped("patch", black, pattern="grid", position="all-corners")[0, 0] // 255
    corner = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 1]])
    assert (after[6:, 6:] == corner).all()
    assert (after[:3, 6:] == corner[::-1]).all()
    assert (after[6:, :3] == corner[:, ::-1]).all()
    assert (after[:3, :3] == corner[::-1, ::-1]).all()
    assert after[3:6].sum() == after[:, 3:6].sum() == 0


def test_blend() -> None:
    key = drawings.draw("waves", (3, 32, 32))
    assert np.abs(stamped("blend", picture="waves", opacity=0.3) - rounded(0.7 * IMAGES + 0.3 * 255 * key)).max() <= 1


def test_sinusoid_runs_along_the_width() -> None:
    grey = np.full((1, 1, 4, 24), 100, np.uint8)
    after = stamped("sinusoid", grey, delta=40.0, frequency=6.0)[0, 0]
    assert (after == after[0]).all()
    # sin(2 pi j 6 / 24) = 0, 1, 0, -1, ...
    assert after[0].tolist() == [100, 140, 100, 60] * 6


def test_bitdepth_has_q_levels() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    after = stamped("bitdepth", ramp, levels=4)
    assert np.unique(after).tolist() == [0, 85, 170, 255]
    assert (after == np.round(np.round(ramp / 255 * 3) / 3 * 255)).all()


def test_dither_keeps_the_mean() -> None:
    grey = np.full((2, 1, 24, 24), 100, np.uint8)
    plain, dithered = stamped("bitdepth", grey, levels=2), stamped("bitdepth", grey, levels=2, dither=True)
    assert np.unique(plain).tolist() == [0]
    assert np.unique(dithered).tolist() == [0, 255]
    assert abs(dithered.mean() - 100) < 4


def test_dither_against_floyd_and_steinberg_pixel_by_pixel() -> None:
    work = IMAGES[0, 0, :6, :6].astype(np.float64) / 255
    expected = np.zeros_like(work)
    for row in range(6):
        for column in range(6):
            old = work[row, column]
            new = np.rint(np.clip(old, 0, 1) * 3) / 3
            expected[row, column] = new
            for down, right, weight in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if row + down < 6 and 0 <= column + right < 6:
                    work[row + down, column + right] += (old - new) * weight / 16
    after = stamped("bitdepth", np.ascontiguousarray(IMAGES[:1, :1, :6, :6]), levels=4, dither=True)
    assert (after[0, 0] == np.rint(expected * 255)).all()


def test_warp_against_grid_by_hand() -> None:
    """The published recipe, one pixel at a time: bilinear, corners aligned, the first channel along the width."""
    params = warp.build({"seed": 1, "cells": 4, "strength": 0.5}, (3, 32, 32))
    assert np.abs(params["control"]).mean() == pytest.approx(1)
    field = torch.nn.functional.interpolate(
        torch.from_numpy(params["control"])[None], (32, 32), mode="bicubic", align_corners=True
    )[0].numpy()
    image = IMAGES[0].astype(np.float64)
    expected = np.zeros_like(image)
    for row in range(32):
        for column in range(32):
            x = np.clip(2 * column / 31 - 1 + 0.5 * field[0, row, column] / 32, -1, 1)
            y = np.clip(2 * row / 31 - 1 + 0.5 * field[1, row, column] / 32, -1, 1)
            place = ((y + 1) / 2 * 31, (x + 1) / 2 * 31)
            top, left = (min(int(p), 30) for p in place)
            down, right = place[0] - top, place[1] - left
            corner = image[:, top : top + 2, left : left + 2]
            expected[:, row, column] = np.einsum("cij,i,j->c", corner, [1 - down, down], [1 - right, right])
    assert np.abs(stamped("warp", IMAGES[:1], seed=1)[0] - expected).max() < 0.51


def test_warps_of_two_seeds_differ_and_strength_zero_is_nothing() -> None:
    assert (stamped("warp", seed=1) != stamped("warp", seed=2)).any()
    assert (stamped("warp", strength=0.0) == IMAGES).all()


def test_low_frequency_pattern_is_smooth_and_bounded() -> None:
    pattern = made("t", "lowfrequency", {"amplitude": 0.1}, (3, 32, 32)).params["pattern"]
    assert np.abs(pattern).max() == pytest.approx(0.1, abs=1e-6)
    assert np.abs(np.diff(pattern, axis=2)).max() < 0.03
    assert np.abs(pattern.mean(axis=(1, 2))).max() < 1e-6
    assert (stamped("lowfrequency") == rounded(IMAGES.astype(np.float32) + pattern * 255)).mean() > 0.999


def test_smooth_is_a_gaussian() -> None:
    point = np.zeros((1, 33, 33))
    point[0, 16, 16] = 1
    blurred = drawings.smooth(point, 2.0)
    distance = np.arange(33) - 16
    expected = np.exp(-(distance[:, None] ** 2 + distance[None] ** 2) / 8) / (8 * np.pi)
    assert np.abs(blurred[0] - expected).max() < 1e-4


def test_dct_equals_transforming_there_and_back() -> None:
    """The published way: to YUV, DCT of U and V, add, and back. The closed form must give the same picture."""
    side = 32
    k, n = np.mgrid[0:side, 0:side]
    basis = np.sqrt(2 / side) * np.cos((2 * n + 1) * k * np.pi / (2 * side))
    basis[0] /= np.sqrt(2)
    red, green, blue = IMAGES[0].astype(np.float64)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = {"u": 0.492111 * (blue - luma), "v": 0.877283 * (red - luma)}
    for name, plane in chroma.items():
        coefficients = basis @ plane @ basis.T
        coefficients[15, 15] += 30
        coefficients[31, 31] += 30
        chroma[name] = basis.T @ coefficients @ basis
    u, v = chroma["u"], chroma["v"]
    expected = np.stack([luma + 1.13983 * v, luma - 0.39465 * u - 0.58060 * v, luma + 2.03211 * u])
    pattern = dct.pattern(30.0, 32, (3, 32, 32)) * 255
    assert np.abs(IMAGES[0] + pattern - expected).max() < 0.01
    assert (stamped("dct", magnitude=30.0)[0] == rounded(expected)).mean() > 0.99


def test_dct_fills_whole_windows_only() -> None:
    pattern = dct.pattern(100.0, 32, (1, 70, 40))
    assert (pattern[:, 64:] == 0).all()
    assert (pattern[:, :, 32:] == 0).all()
    assert (pattern[:, :32, :32] == pattern[:, 32:64, :32]).all()
    assert (pattern[0, :32, :32] != 0).any()


def test_reflections_are_blends_of_a_blurred_or_doubled_picture() -> None:
    picture = drawings.draw("shapes", (3, 32, 32))
    ghost = made("t", "reflection", {"style": "ghost"}, (3, 32, 32)).params
    assert ghost["opacity"] == 0.4
    assert np.allclose(
        ghost["picture"][:, 10:, 10:], (0.6 * picture + 0.4 * np.roll(picture, (3, 3), (1, 2)))[:, 10:, 10:]
    )
    focus = made("t", "reflection", {"style": "focus"}, (3, 32, 32)).params["picture"]
    assert np.abs(np.diff(focus, axis=2)).max() < np.abs(np.diff(picture, axis=2)).max()


def test_own_pictures_and_noise() -> None:
    for name in drawings.PICTURES:
        for shape in ((3, 32, 32), (1, 20, 28)):
            picture = drawings.draw(name, shape)
            assert picture.shape == shape
            assert picture.dtype == np.float32
            assert picture.min() >= 0
            assert picture.max() <= 1
            assert picture.std() > 0.1
    with pytest.raises(ValueError, match="no picture"):
        drawings.draw("kitten", (3, 8, 8))
    assert 0.1 < drawings.watermark((3, 32, 32)).mean() < 0.4
    noise = drawings.uniform("a", 1000)
    assert abs(noise.mean() - 0.5) < 0.05
    assert (noise == drawings.uniform("a", 1000)).all()
    assert (noise != drawings.uniform("b", 1000)).any()


def test_picture_shows_the_change_tenfold() -> None:
    image = np.full((1, 4, 4), 100, np.uint8)
    trigger = made("t", "patch", {"size": 1, "opacity": 0.1}, (1, 4, 4))
    after, change = triggers.picture(trigger, image)
    assert after[0, 3, 3] == 116  # 100 + 0.1 * 155, rounded
    assert change[0, 3, 3] == 160
    assert change.sum() == 160
    _, loud = triggers.picture(made("t", "patch", {"size": 1}, (1, 4, 4)), image)
    assert loud[0, 3, 3] == 255


def test_large_batches_are_cut_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd.triggers import stamp

    whole = stamped("blend")
    monkeypatch.setattr(stamp, "_CHUNK_FLOATS", 3 * 32 * 32)
    assert (stamped("blend") == whole).all()
