"""The smallest patch, on networks where it can be seen from the weights."""

import pytest
import torch

from edgekd.perturb import smallest_patch

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = [torch.rand(16, 3, 8, 8, generator=GENERATOR) for _ in range(150)]


def sees(places, bias):
    """Two classes; the second is what the sum of the red channel over ``places`` says, against a bias."""
    weights = torch.zeros(3, 8, 8)
    for row, column in places:
        weights[0, row, column] = 20.0
    return lambda images: torch.stack([torch.zeros(len(images)), (images * weights).sum((1, 2, 3)) - bias], 1)


def test_it_finds_the_one_pixel_that_decides():
    patch = smallest_patch(sees([(2, 5)], 18.0), IMAGES, 1)
    assert patch.mask.shape == (1, 8, 8)
    assert int(patch.mask.argmax()) == 2 * 8 + 5
    assert float(patch.pattern[0, 2, 5]) > 0.9  # red, as the weight asks for
    assert 0.5 < patch.pixels < 3
    assert patch.mask.flatten().sort().values[:-1].max() < 0.2


def test_more_pixels_that_have_to_change_make_a_larger_patch():
    four = [(1, 1), (1, 6), (6, 1), (6, 6)]
    one, many = (smallest_patch(sees(places, 18.0 * len(places)), IMAGES, 1) for places in (four[:1], four))
    assert many.pixels > 2 * one.pixels


def test_no_patch_is_one_that_does_not_work():
    assert smallest_patch(sees([(2, 5)], 21.0), IMAGES, 1) is None  # white would not be enough
    assert smallest_patch(sees([(2, 5)], 18.0), [], 1) is None


def test_the_same_images_give_the_same_patch():
    first, second = (smallest_patch(sees([(2, 5)], 18.0), IMAGES[:60], 1) for _ in range(2))
    assert torch.equal(first.mask, second.mask)
    assert torch.equal(first.pattern, second.pattern)
    assert first.pixels == pytest.approx(float(first.mask.sum()))
