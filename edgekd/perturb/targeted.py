"""Attacks towards one class after another, the likeliest first."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .slopes import Predict

Towards = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # which images [M], their targets [M] -> images


def each_target(
    predict: Predict, images: torch.Tensor, labels: torch.Tensor, *, count: int, attack: Towards
) -> torch.Tensor:
    """Images [N, C, H, W] after ``attack`` towards the ``count`` other classes of the largest logits, in that order.

    labels: int64 [N]. An image that is misclassified is tried no further. There are at most K - 1 targets.
    """
    with torch.no_grad():
        logits = predict(images)
    others = logits.scatter(1, labels[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
    found = images.detach().clone()
    left = torch.arange(len(images), device=images.device)
    for rank in range(min(count, logits.shape[1] - 1)):
        tried = attack(left, others[left, rank])
        found[left] = tried
        with torch.no_grad():
            left = left[predict(tried).argmax(1) == labels[left]]
        if not len(left):
            break
    return found
