"""Losses on slopes: how a network's own loss changes with each pixel, held against another network's."""

from __future__ import annotations

import math
from typing import Literal

import torch

from .logits import soft_target_kl

Distance = Literal["l2", "l1", "cosine"]
TINY = 1e-14  # under a root, whose own slope at 0 is none


def input_gradient(
    logits: torch.Tensor,
    labels: torch.Tensor,
    images: torch.Tensor,
    *,
    temperature: float = 1.0,
    create_graph: bool = False,
) -> torch.Tensor:
    """Each image's gradient of T · CE(logits / T, label) by its pixels, float, shaped as ``images``.

    images [N, C, H, W]: what the logits [N, K] were computed from, with ``requires_grad``; labels int64 [N]. create_graph:
    so that it can be trained itself. Summed over images, so that a row is its own image's; batch-norm in train mode
    couples rows a little. T = 1: Shao et al. 2021 (KDIGA); there it is next to nothing where a network is sure, and T
    softens that. Raises ValueError for a temperature that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"a temperature of {temperature} is not positive")
    loss = temperature * torch.nn.functional.cross_entropy(logits.float() / temperature, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images, create_graph=create_graph)
    return gradient.float()


def slope_distance(student: torch.Tensor, teacher: torch.Tensor, distance: Distance = "l2") -> torch.Tensor:
    """How far each row of one [N, ...] is from that of the other: [N] float32. No gradient reaches teacher.

    l2: ‖s - t‖₂, as Shao et al. 2021; l1: ‖s - t‖₁ / √n, what bounds the loss under a largest change of a pixel; cosine:
    1 - cos(s, t), which says nothing of lengths and is 1 where a row is zero. Raises ValueError where the shapes differ or
    for an unknown distance.
    """
    if student.shape != teacher.shape or student.dim() < 2:
        raise ValueError(f"slopes {tuple(student.shape)} and {tuple(teacher.shape)} are not two [N, ...] of one shape")
    ours, theirs = student.float().flatten(1), teacher.detach().float().flatten(1)
    if distance == "l2":
        return _lengths(ours - theirs)
    if distance == "l1":
        return (ours - theirs).abs().sum(1) / math.sqrt(ours.shape[1])
    if distance == "cosine":
        return 1 - (ours * theirs).sum(1) / (_lengths(ours) * _lengths(theirs))
    raise ValueError(f"there is no distance {distance!r}")


def indirect_slope_kl(
    student: tuple[torch.Tensor, torch.Tensor], teacher: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """KL(softmax(t(x+d) - t(x-d)) ‖ softmax(s(x+d) - s(x-d))), mean over images, in nats; a scalar float32.

    Each pair: logits [N, K] at x + d and at x - d. To first order both differences are 2 J d, so Jacobians are matched
    along d without a second backward pass. Lee et al. 2025 (IGDM). Raises ValueError where the shapes differ.
    """
    differences = [ahead.float() - behind.float() for ahead, behind in (student, teacher)]
    return soft_target_kl(differences[0], differences[1], 1.0)


def _lengths(rows: torch.Tensor) -> torch.Tensor:
    return rows.square().sum(1).add(TINY).sqrt()
