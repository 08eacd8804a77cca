"""Projected gradient descent (Madry et al. 2018) in the maximum norm."""

from __future__ import annotations

import torch

from ..losses import cross_entropy_each
from .slopes import Bound, Objective, Predict, per_image, random_start, slope, within


def pgd(
    predict: Predict,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    bound: Bound,
    rate: Bound,
    steps: int,
    generator: torch.Generator | None = None,
    objective: Objective = cross_entropy_each,
    keep: bool = False,
) -> torch.Tensor:
    """Images near ``images`` float [N, C, H, W] in [0, 1] on which ``objective`` with ``labels`` int64 [N] is high.

    predict: images -> logits, in eval mode. bound, rate: largest change of a pixel and that of one step, in [0, 1].
    generator: for a random start within the bound; without one it starts at the images, and one step of the bound's
    length is FGSM (Goodfellow et al. 2015). keep: an image that was misclassified on the way comes as it was then, the
    last time. Result: as ``images``, in [0, 1].
    """
    near = images.detach()
    found = near.clone() if generator is None else random_start(near, bound, generator)
    kept, broken = near, torch.zeros(len(near), dtype=torch.bool, device=near.device)
    for _ in range(steps):
        _, logits, gradient = slope(predict, found, labels, objective)
        if keep:
            wrong = logits.argmax(1) != labels
            kept, broken = torch.where(per_image(wrong), found, kept), broken | wrong
        found = within(found + rate * gradient.sign(), near, bound)
    return torch.where(per_image(broken), kept, found)
