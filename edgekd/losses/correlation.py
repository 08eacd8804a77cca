"""Losses on the correlation of two rows of logits: their values up to scale and shift, and their order."""

from __future__ import annotations

import math

import torch

FLAT = 1e-6  # a row whose spread is below it has none: neither a correlation nor a gradient


def standardised(logits: torch.Tensor) -> torch.Tensor:
    """Every row of [N, K] with mean 0 and (population) standard deviation 1, float32; a constant row becomes zeros."""
    logits = logits.float()
    centred = logits - logits.mean(dim=1, keepdim=True)
    return _unit(centred) * math.sqrt(logits.shape[1])


def pearson(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of each row of one [N, K] with the same row of the other: [N] float32; 0 where a row is constant.

    One where a row is the other times a positive number plus a constant. For columns hand in transposes. No gradient
    reaches teacher. Raises ValueError where the shapes differ. Huang et al. 2022 (DIST), Niu et al. 2024 (CMKD).
    """
    if student.shape != teacher.shape or student.dim() != 2:
        raise ValueError(f"rows {tuple(student.shape)} and {tuple(teacher.shape)} are not two [N, K] of one shape")
    ours, theirs = (
        _unit(values - values.mean(dim=1, keepdim=True)) for values in (student.float(), teacher.detach().float())
    )
    return (ours * theirs).sum(dim=1)


def soft_rank(values: torch.Tensor, temperature: float) -> torch.Tensor:
    """Ranks of the elements of every row of [N, K], 1 for the smallest to K, float32: 1/2 + Σ_j sigmoid((v_k - v_j) / t).

    t -> 0: the ranks themselves, without a gradient; t large: an affine map of the row. Takes N·K² floats. Raises
    ValueError for a temperature that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"a temperature of {temperature} is not positive")
    values = values.float()
    return 0.5 + torch.sigmoid((values[:, :, None] - values[:, None, :]) / temperature).sum(dim=2)


def entropy_share(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of softmax over log K, of every row of [N, K]: [N] float32 in [0, 1], without a gradient."""
    log_probability = torch.log_softmax(logits.detach().float(), dim=1)
    entropy = -(log_probability.exp() * log_probability).sum(dim=1)
    return entropy / torch.log(torch.tensor(float(logits.shape[1]), device=logits.device))


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows [N, K] of length 1, flat ones zero; dividing by a least length instead would blow up their gradient."""
    length: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    unit: torch.Tensor = rows / length.clamp_min(FLAT) * (length > FLAT)
    return unit
