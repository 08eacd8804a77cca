"""Contrastive losses against numpy and by hand."""

import math

import numpy as np
import pytest
import torch

from edgekd.losses import noise_contrastive


def test_noise_contrastive_is_the_formula():
    random = np.random.default_rng(0)
    positive, negatives, weights = random.normal(2, 3, 4), random.normal(0, 3, (4, 6)), random.uniform(0, 5, (4, 6))
    level, h = 1.7, lambda s: np.exp(s) / (np.exp(s) + np.exp(1.7))
    expected = (-np.log(h(positive)) - (weights * np.log(1 - h(negatives))).sum(1)).mean()
    given = (torch.tensor(value) for value in (positive, negatives, weights, level))
    found = noise_contrastive(*given)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_noise_contrastive_by_hand():
    # All at the noise's level: h = 1/2, so ln 2 for the positive and three times for negatives that count thrice.
    level = torch.tensor(2.0)
    found = noise_contrastive(level.expand(5), level.expand(5, 2), torch.tensor([[1.0, 2.0]]), level)
    assert found.item() == pytest.approx(4 * math.log(2))


def test_the_positive_is_drawn_near_and_negatives_away_at_any_size():
    positive = torch.tensor([-400.0, 400.0]).requires_grad_()
    negatives = torch.tensor([[400.0], [-400.0]]).requires_grad_()
    loss = noise_contrastive(positive, negatives, torch.ones(2, 1), torch.tensor(0.0))
    loss.backward()
    assert loss.item() == pytest.approx(400)
    assert positive.grad.tolist() == pytest.approx([-0.5, 0])
    assert negatives.grad.flatten().tolist() == pytest.approx([0.5, 0])
