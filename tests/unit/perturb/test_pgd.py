"""Projected gradient descent on a linear model, where the answer can be written down."""

import torch

from edgekd.perturb import pgd

WEIGHTS = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 3.0]])


def predict(images):
    return images.flatten(1) @ WEIGHTS.T


def test_a_linear_model_is_left_at_the_far_corner_of_the_bound():
    images, labels = torch.tensor([0.5, 0.5, 0.98]).view(1, 3, 1, 1), torch.tensor([0])
    found = pgd(predict, images, labels, bound=0.1, rate=0.04, steps=5)
    # the other class's logit minus this one's grows along (-2, 3, 2.5)
    assert torch.allclose(found.flatten(), torch.tensor([0.4, 0.6, 1.0]))


def test_a_random_start_stays_within_the_bound_and_the_range():
    images, labels = (
        torch.rand(8, 3, 1, 1, generator=torch.Generator().manual_seed(1)),
        torch.zeros(8, dtype=torch.int64),
    )
    found = pgd(predict, images, labels, bound=0.3, rate=0.1, steps=1, generator=torch.Generator().manual_seed(0))
    assert float((found - images).abs().max()) <= 0.3 + 1e-6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert not torch.equal(found, pgd(predict, images, labels, bound=0.3, rate=0.1, steps=1))
