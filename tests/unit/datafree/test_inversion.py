"""Generators by their published sizes, the views, the bank and what is seen of batch norms."""

import pytest
import torch
from torch import nn

from edgekd.datafree.bank import Bank, Head, Watched
from edgekd.datafree.generator import Generator, refill, views


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_generators_have_the_published_sizes():
    assert count(Generator((3, 32, 32), 100, 128)) == 1_051_145  # ZSKT: 1.05 M
    assert count(Generator((3, 32, 32), 256, 128, plain=True)) == 2_328_899  # CMI: 2.33 M


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 30, 18), (3, 96, 96)])
def test_a_generator_makes_pixels_of_any_size(shape):
    generator = Generator(shape, 10, 16)
    with torch.no_grad():
        images = generator(torch.randn(4, 10))
        assert torch.equal(images, generator.eval()(torch.randn(4, 10))) is False
    assert images.shape == (4, *shape)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert not list(generator.buffers())  # norms go by the batch, nothing runs along


def test_fresh_weights_are_those_of_the_draws():
    first, second = (Generator((3, 16, 16), 8, 8, plain=True) for _ in range(2))
    for generator in (first, second):
        refill(generator, torch.Generator().manual_seed(5))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert float(first.dense.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(first.norm.weight.detach().mean()) == pytest.approx(1.0, abs=0.03)
    assert float(first.dense.bias.detach().abs().max()) == 0


def test_views_are_shifts_and_crops_with_gradients():
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    wide, local = views(images, torch.Generator().manual_seed(1))
    assert wide.shape == local.shape == images.shape
    again = views(images, torch.Generator().manual_seed(1))
    assert torch.equal(wide, again[0])
    whole = [  # a shift is the image itself, or its mirror, where both overlap
        any(
            torch.allclose(wide[k, :, 4:12, 4:12], image[:, 4 + dy : 12 + dy, 4 + dx : 12 + dx], atol=1e-4)
            for image in (images[k], images[k].flip(2))
            for dy in range(-2, 3)
            for dx in range(-2, 3)
        )
        for k in range(8)
    ]
    assert all(whole)
    (slope,) = torch.autograd.grad(local.sum() + wide.sum(), images)
    assert float(slope.abs().sum()) > 0


def test_the_bank_is_a_ring():
    bank = Bank(5, 2)
    assert [len(part) for part in bank.sample(9, torch.Generator())] == [0, 0]
    rows = torch.arange(14.0).view(7, 2)
    bank.add(rows[:3], -rows[:3])
    assert len(bank.sample(9, torch.Generator())[0]) == 3
    bank.add(rows[3:], -rows[3:])
    assert sorted(bank.rows[:, 0, 0].tolist()) == [4.0, 6.0, 8.0, 10.0, 12.0]  # the two oldest are gone
    local, wide = bank.sample(4, torch.Generator().manual_seed(0))
    assert torch.equal(local, -wide)
    assert len({row[0] for row in local.tolist()}) == 4
    bank.add(torch.arange(20.0).view(10, 2), torch.zeros(10, 2))
    assert sorted(bank.rows[:, 0, 0].tolist()) == [10.0, 12.0, 14.0, 16.0, 18.0]


def test_what_norms_are_given_is_seen_and_nothing_stays_behind():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten()).eval()
    watched, images = Watched(network), torch.rand(5, 3, 8, 8)
    logits, inputs = watched(images)
    assert torch.equal(logits, network(images))
    assert torch.equal(inputs[0], network[0](images))
    assert watched.width == 8
    assert watched.pooled(inputs).shape == (5, 8)
    assert [len(part) for part in watched.running[0]] == [4, 4]
    assert not network[1]._forward_pre_hooks
    unit = Head(8, 0)(watched.pooled(inputs))
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(5))
    assert torch.equal(Head(8, 0)(torch.ones(1, 8)), Head(8, 0)(torch.ones(1, 8)))
