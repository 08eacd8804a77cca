"""Only pictures may set scales."""

import numpy as np
import pytest

from edgekd.errors import UsageError
from edgekd.quantize.images import check, neighbour_correlation, select


def noise(count: int, shape=(3, 32, 32)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_uniform_and_gaussian_noise_are_refused():
    with pytest.raises(UsageError, match="random noise"):
        check(noise(100))
    gaussian = np.clip(np.random.default_rng(1).normal(128, 40, (100, 1, 28, 28)), 0, 255).astype(np.uint8)
    with pytest.raises(UsageError, match="random noise"):
        check(gaussian)


def test_a_share_of_noise_among_real_images_is_refused(pictures):
    mixed = np.concatenate([pictures.images[:80], noise(20)])
    with pytest.raises(UsageError, match="20 of 100"):
        check(mixed)


def test_flat_images_are_refused():
    flat = np.repeat(np.arange(60, dtype=np.uint8), 3 * 16 * 16).reshape(60, 3, 16, 16)
    with pytest.raises(UsageError, match="one flat colour"):
        check(flat)


def test_one_image_many_times_is_refused(pictures):
    with pytest.raises(UsageError, match=r"at least 32 different images but got 1\b"):
        check(np.repeat(pictures.images[:1], 100, axis=0))


def test_too_few_images_are_refused(pictures):
    with pytest.raises(UsageError, match="got 20"):
        select(pictures.images[:20], 512, seed=0)


def test_floats_are_refused(pictures):
    with pytest.raises(UsageError, match="float32"):
        select(pictures.images.astype(np.float32), 64, seed=0)


def test_the_draw_depends_on_the_seed_alone(pictures):
    first, again, other = (select(pictures.images, 40, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(first) == 40
    assert len(select(pictures.images, 512, 0)) == len(pictures.images)


def test_real_photographs_and_digits_pass(cifar_test, shared):
    check(cifar_test.images)
    digits = np.load(shared / "data" / "mnist.npz")["x_test"][:200, None]
    check(digits)


def test_correlation_by_hand():
    ramp = np.tile(np.arange(16, dtype=np.uint8) * 10, (1, 1, 16, 1))
    board = np.uint8(255) * (np.indices((16, 16)).sum(0) % 2).astype(np.uint8)[None, None]
    flat = np.full((1, 1, 16, 16), 7, np.uint8)
    correlation, is_flat = neighbour_correlation(np.concatenate([ramp, board, flat]))
    assert correlation[0] == pytest.approx(1)
    assert correlation[1] == pytest.approx(-1)
    assert is_flat.tolist() == [False, False, True]
