"""Losses on differences between images: what sets one output apart from another, as a vector."""

from __future__ import annotations

import torch


def comparisons(values: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    """The mean of each image's group less its last partner: values [N, K], partners int64 [G, N] -> [N, K] float32.

    The group is the image and its partners but the last one; with one partner this is v_i - v_j. Wilf et al. 2023.
    """
    values = values.float()
    group = [values, *(values[partner] for partner in partners[:-1])]
    return torch.stack(group).mean(dim=0) - values[partners[-1]]


def comparison_mse(student: torch.Tensor, target: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    """Mean over images and classes of (d_S - d_T)², d the ``comparisons`` of [N, K]; a scalar float32.

    A constant vector added to every target changes nothing. No gradient reaches target. Raises ValueError where the
    shapes differ.
    """
    _same(student, target)
    return (comparisons(student, partners) - comparisons(target.detach(), partners)).square().mean()


def every_pair_mse(student: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """``comparison_mse`` over all N² pairs of a batch: twice the variance over images of student - target; a scalar.

    The identity says what comparing pairs adds to matching outputs: it leaves one vector for all images free.
    """
    _same(student, target)
    return 2 * (student.float() - target.detach().float()).var(dim=0, correction=0).mean()


def _same(student: torch.Tensor, target: torch.Tensor) -> None:
    if student.shape != target.shape or student.dim() != 2:
        raise ValueError(f"outputs {tuple(student.shape)} and {tuple(target.shape)} are not two [N, K] of one shape")
