"""Gradients through the solution of an inner problem, by the fixed-point series of the implicit function theorem.

Inside, Φ(z) = z − rate · slope(z), slope = ∇_z L_in, has a fixed point z*(θ). An outer loss L_out(θ, z*) then has the
gradient ∂_θ L_out − rate · ∂_θ ⟨slope, v⟩, v = Σ_k (I − rate H)^k ∂_z L_out, H the Jacobian of slope; the sum is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

Tensors = Sequence[torch.Tensor]


def implicit_term(slope: Tensors, values: Tensors, first: Tensors, rate: float, terms: int) -> torch.Tensor:
    """A scalar whose gradient for whatever else ``slope`` depends on is the implicit one; its value says nothing.

    slope: ∇ L_in at ``values``, made with create_graph; first: ∇ L_out there; one tensor of one shape each per value.
    """
    series = fixed_point_series(slope, values, first, rate, terms)
    products = [(s * v).sum() for s, v in zip(slope, series, strict=True)]
    return -rate * torch.stack(products).sum()


def fixed_point_series(slope: Tensors, values: Tensors, first: Tensors, rate: float, terms: int) -> list[torch.Tensor]:
    """Σ_{k < terms} (I − rate H)^k first, H the Jacobian of ``slope`` for ``values``: what (rate H)^-1 first becomes."""
    term, total = list(first), list(first)
    for _ in range(terms - 1):
        curved = torch.autograd.grad(slope, values, grad_outputs=term, retain_graph=True)
        term = [(t - rate * c).detach() for t, c in zip(term, curved, strict=True)]
        total = [a + t for a, t in zip(total, term, strict=True)]
    return [value.detach() for value in total]


def largest_curvature(slope: Tensors, values: Tensors, first: Tensors, steps: int = 4) -> float:
    """|λ|_max of the Jacobian of ``slope`` for ``values``, by power iteration from ``first``; a lower bound."""
    vector, found = list(first), 0.0
    for _ in range(steps):
        length = float(torch.stack([v.norm() for v in vector]).norm())
        if not math.isfinite(length) or length == 0:
            break
        vector = [v / length for v in vector]
        vector = [c.detach() for c in torch.autograd.grad(slope, values, grad_outputs=vector, retain_graph=True)]
        found = float(torch.stack([v.norm() for v in vector]).norm())
    return found
