"""Losses on differences between images, and what they cannot see."""

import pytest
import torch

from edgekd.losses import comparison_mse, comparisons, every_pair_mse


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_pairs_and_groups_by_hand():
    values = torch.tensor([[1.0], [2.0], [6.0]])
    assert comparisons(values, torch.tensor([[1, 2, 0]])).flatten().tolist() == [-1, -4, 5]
    assert comparisons(values, torch.tensor([[1, 2, 0], [2, 0, 1]])).flatten().tolist() == [1.5 - 6, 4 - 1, 3.5 - 2]


def test_every_pair_is_twice_the_variance_of_what_is_left():
    student, target = normal(7, 4), 3 * normal(7, 4, seed=1)
    pairs = [(((student[i] - student[j]) - (target[i] - target[j])) ** 2).mean() for i in range(7) for j in range(7)]
    assert float(every_pair_mse(student, target)) == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-5)
    shifted = [comparison_mse(student, target, (torch.arange(7)[None] + by) % 7) for by in range(7)]
    assert float(every_pair_mse(student, target)) == pytest.approx(float(torch.stack(shifted).mean()), rel=1e-5)


@pytest.mark.parametrize("loss", [every_pair_mse, lambda s, t: comparison_mse(s, t, torch.tensor([[1, 2, 0]]))])
def test_one_vector_for_all_images_changes_nothing_and_gets_no_gradient(loss):
    student, target, bias = normal(3, 4), normal(3, 4, seed=1).requires_grad_(), torch.zeros(4, requires_grad=True)
    before = loss(student, target)
    after = loss(student + bias, target + 5 * torch.arange(4.0))
    assert after.item() == pytest.approx(float(before), rel=1e-5)
    after.backward()
    assert float(bias.grad.abs().max()) < 1e-6, "so it is the label loss that has to set the classes' offsets"
    assert target.grad is None


def test_other_shapes_are_refused():
    for loss in (every_pair_mse, lambda s, t: comparison_mse(s, t, torch.tensor([[1, 2, 0]]))):
        with pytest.raises(ValueError, match="not two"):
            loss(normal(3, 4), normal(3, 1))
