"""Projected gradient descent (Madry et al. 2018) in the maximum norm."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def pgd(
    predict: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    bound: float,
    rate: float,
    steps: int,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Images near ``images`` float [N, C, H, W] in [0, 1] on which cross-entropy with ``labels`` int64 [N] is high.

    predict: images -> logits, in eval mode. bound, rate: largest change of a pixel and that of one step, in [0, 1].
    generator: for a random start within the bound; without one it starts at the images. Result: as ``images``, in [0, 1].
    """
    near = images.detach()
    found = near.clone()
    if generator is not None:
        noise = torch.rand(near.shape, generator=generator).to(near)
        found = (near + bound * (2 * noise - 1)).clamp(0, 1)
    for _ in range(steps):
        found.requires_grad_(True)
        loss = F.cross_entropy(predict(found).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, found)
        found = found.detach() + rate * gradient.sign()
        found = (near + (found - near).clamp(-bound, bound)).clamp(0, 1)
    return found.detach()
