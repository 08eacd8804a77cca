"""Gradients through the solution of a quadratic inner problem, where the answer can be written down."""

import pytest
import torch

from edgekd.perturb import implicit_term, largest_curvature

CURVATURE = torch.tensor([1.0, 4.0])


def gradient(terms: int) -> list[float]:
    """d/dθ Σ (z* − 1)² / 2, z* = Bθ / a, the solution of min_z Σ a z² / 2 − ⟨Bθ, z⟩; a = (1, 4)."""
    theta = torch.tensor([2.0, 3.0], requires_grad=True)
    across = torch.tensor([[1.0, 2.0], [0.0, 5.0]])
    found = (across @ theta.detach() / CURVATURE).requires_grad_(True)
    inner = (CURVATURE * found.square() / 2).sum() - (across @ theta) @ found
    slope = torch.autograd.grad(inner, found, create_graph=True)
    first = (found.detach() - 1,)
    (given,) = torch.autograd.grad(implicit_term(slope, [found], first, 0.2, terms), theta)
    return given.tolist()


def test_the_implicit_gradient_of_a_quadratic():
    # z* = (8, 3.75), so dL/dz = (7, 2.75); over the curvature (7, 0.6875); Bᵀ of it (7, 14 + 3.4375)
    assert gradient(200) == pytest.approx([7.0, 17.4375], rel=1e-4)


def test_a_series_cut_off_is_short_by_a_known_factor():
    # 1 − (1 − 0.2 a)^5: 0.67232 along the first, 0.99968 along the second
    assert gradient(5) == pytest.approx([7 * 0.67232, 14 * 0.67232 + 3.4375 * 0.99968], rel=1e-4)


def test_the_largest_curvature_is_found_from_below():
    at = torch.tensor([1.0, 1.0], requires_grad=True)
    slope = torch.autograd.grad((0.5 * CURVATURE * at.square()).sum(), at, create_graph=True)
    found = largest_curvature(slope, [at], (torch.tensor([1.0, 1.0]),), steps=6)
    assert 3.99 < found <= 4.0
    assert largest_curvature(slope, [at], (torch.zeros(2),)) == 0
