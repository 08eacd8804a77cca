"""Slopes against the analytic ones of a linear network and against finite differences; distances by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.losses import indirect_slope_kl, input_gradient, slope_distance


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(rows):
    shifted = np.exp(rows - rows.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


class Linear(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images):
        return images.flatten(1) @ self.weight.T


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_linear_network_has_the_slopes_of_the_formula(temperature):
    """J = W, so the gradient of T·CE(Wx / T) is Wᵀ(softmax(Wx / T) - onehot)."""
    weights, images = [normal(3, 12, seed=n) for n in (1, 2)], normal(5, 3, 2, 2).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1])
    slopes, wanted = [], []
    for weight in weights:
        found = input_gradient(Linear(weight)(images), labels, images, temperature=temperature)
        assert found.shape == images.shape
        slopes.append(found)
        w, x = weight.numpy(), images.detach().flatten(1).numpy()
        wanted.append((softmax(x @ w.T / temperature) - np.eye(3)[labels.numpy()]) @ w)
        np.testing.assert_allclose(found.flatten(1), wanted[-1], atol=1e-5)
    distance = np.sqrt(((wanted[0] - wanted[1]) ** 2).sum(1))
    np.testing.assert_allclose(slope_distance(*slopes), distance, atol=1e-5)


def test_the_distances_by_hand():
    student, teacher = torch.tensor([[3.0, 4.0, 0.0, 0.0], [1, 0, 0, 0]]), torch.tensor([[0.0, 0, 0, 0], [0, 1, 0, 0]])
    assert slope_distance(student, teacher).tolist() == pytest.approx([5, 2**0.5])
    assert slope_distance(student, teacher, "l1").tolist() == pytest.approx([7 / 2, 2 / 2])
    assert slope_distance(student, teacher, "cosine").tolist() == pytest.approx([1, 1])
    assert slope_distance(student, 7 * student, "cosine").tolist() == pytest.approx([0, 0], abs=1e-6)
    assert slope_distance(student, -student, "cosine").tolist() == pytest.approx([2, 2])


@pytest.mark.parametrize("distance", ["l2", "l1", "cosine"])
def test_the_same_slopes_are_no_distance_and_give_no_nan(distance):
    slopes, frozen = normal(4, 3, 5, 5).requires_grad_(), normal(4, 3, 5, 5, seed=1)
    found = slope_distance(slopes, frozen, distance)
    assert found.min().item() > 0.1
    same = slope_distance(slopes, slopes.detach(), distance)
    assert same.abs().max().item() < 1e-6
    same.sum().backward()
    assert torch.isfinite(slopes.grad).all()
    nothing = torch.zeros(2, 3, requires_grad=True)
    slope_distance(nothing, torch.zeros(2, 3), distance).sum().backward()
    assert torch.isfinite(nothing.grad).all()


@pytest.mark.parametrize("distance", ["l2", "l1", "cosine"])
def test_the_weights_get_the_gradient_of_finite_differences(distance):
    """A student whose slopes are detached logs the same value and learns nothing: here every weight has its gradient."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 3))
    images, labels, target = normal(2, 1, 4, 4).requires_grad_(), torch.tensor([0, 2]), normal(2, 1, 4, 4, seed=3)

    def loss():
        slopes = input_gradient(student(images), labels, images, temperature=2.0, create_graph=True)
        return slope_distance(slopes, target, distance).sum()

    parameters = list(student.parameters())
    found = torch.autograd.grad(loss(), parameters, allow_unused=True)
    assert found[0].abs().max() > 1e-3
    step = 1e-2
    for parameter, gradient in zip(parameters[:3], found, strict=False):
        for place in (0, parameter.numel() - 1):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.view(-1)[place] += sign * step
                values.append(loss().item())
                with torch.no_grad():
                    parameter.view(-1)[place] -= sign * step
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(
                gradient.view(-1)[place].item(), rel=0.02, abs=1e-3
            )


def test_a_row_does_not_depend_on_the_batch_it_stands_in():
    network, images = Linear(normal(3, 4)), normal(8, 1, 2, 2).requires_grad_()
    labels = torch.arange(8) % 3
    whole = input_gradient(network(images), labels, images)
    few = images[:2].detach().requires_grad_()
    assert torch.allclose(whole[:2], input_gradient(network(few), labels[:2], few), atol=1e-6)


def test_indirect_slopes_are_the_kl_of_the_differences():
    s, t = [normal(4, 3, seed=n) for n in (1, 2)], [normal(4, 3, seed=n) for n in (3, 4)]
    p, q = (softmax((ahead - behind).numpy().astype(np.float64)) for ahead, behind in (t, s))
    wanted = (p * np.log(p / q)).sum(1).mean()
    assert float(indirect_slope_kl(tuple(s), tuple(t))) == pytest.approx(wanted, rel=1e-5)
    shifted = (s[0] + normal(4, 1, seed=5), s[1])
    assert float(indirect_slope_kl(shifted, tuple(t))) == pytest.approx(wanted, rel=1e-4), "one number for all classes"


def test_a_linear_teacher_is_matched_along_the_direction_exactly_when_the_jacobians_agree_there():
    weight, images, direction = normal(3, 4), normal(2, 4), normal(2, 4, seed=1)
    other = weight + 5 * normal(3, 1, seed=2) @ torch.tensor([[1.0, 0, 0, 0]])
    direction[:, 0] = 0  # along which alone the two differ
    values = [((images + direction) @ w.T, (images - direction) @ w.T) for w in (weight, other)]
    assert float(indirect_slope_kl(*values)) == pytest.approx(0, abs=1e-6)


def test_what_does_not_fit_is_refused():
    images = normal(2, 1, 2, 2).requires_grad_()
    with pytest.raises(ValueError, match="not positive"):
        input_gradient(Linear(normal(3, 4))(images), torch.tensor([0, 1]), images, temperature=0)
    with pytest.raises(ValueError, match="not two"):
        slope_distance(normal(2, 3), normal(2, 4))
    with pytest.raises(ValueError, match="no distance 'l3'"):
        slope_distance(normal(2, 3), normal(2, 3), "l3")
    with pytest.raises(ValueError, match="one shape"):
        indirect_slope_kl((normal(2, 3), normal(2, 3)), (normal(2, 4), normal(2, 4)))
