"""Universal perturbations on linear models, where the answer can be written down."""

import torch

from edgekd.perturb.universal import SignedAscent, universal

IMAGES = [torch.full((4, 3, 1, 1), 0.5)] * 12


def linear(*rows):
    weights = torch.tensor(rows)
    return lambda images: images.flatten(1) @ weights.T


def test_it_climbs_into_the_corner_that_favours_the_target():
    predict = linear([1.0, -2.0, 0.0], [-1.0, 1.0, 0.0])
    found = universal(predict, IMAGES, 0, bound=0.1).flatten()
    assert torch.allclose(found, torch.tensor([0.1, -0.1, 0.0]))
    assert torch.allclose(universal(predict, IMAGES, 1, bound=0.1).flatten(), -found)


def test_what_would_fool_the_honest_network_is_left_out():
    images = [torch.tensor([0.5, 0.5, 0.52]).view(1, 3, 1, 1)] * 12
    predict = linear([1.0, 1.0, 0.0], [-1.0, -1.0, 0.0])
    honest = linear([0.0, 30.0, -30.0], [0.0, -30.0, 30.0])  # compares the last two pixels, sees class 1
    alone = universal(predict, images, 0, bound=0.1)
    both = universal(predict, images, 0, bound=0.1, honest=honest)
    assert torch.allclose(alone.flatten(), torch.tensor([0.1, 0.1, 0.0]))
    assert float(both.flatten()[0]) == float(alone.flatten()[0])
    assert [int(honest(images[0] + found).argmax(1)) for found in (alone, both)] == [0, 1]


def test_it_asks_for_gradients_of_nothing_but_itself():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2))
    found = universal(network, IMAGES, 0, bound=0.1)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not found.requires_grad


def test_an_ascent_follows_the_sign_and_stays_within_the_bound():
    value = torch.nn.Parameter(torch.tensor([0.0, 0.0, 0.095]))
    value.grad = torch.tensor([3.0, -0.1, 1.0])
    SignedAscent([value], 0.02, 0.1).step()
    assert torch.allclose(value.detach(), torch.tensor([0.02, -0.02, 0.1]))
