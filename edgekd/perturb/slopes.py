"""What every attack with gradients asks a network for, and where its steps may lead."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..losses import cross_entropy_each

Predict = Callable[[torch.Tensor], torch.Tensor]  # images float [N, C, H, W] in [0, 1] -> logits [N, K]
Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits, labels -> one value per image, to climb
Bound = float | torch.Tensor  # largest change of a pixel, in [0, 1]; one per image as [N, 1, 1, 1]


def slope(
    predict: Predict, images: torch.Tensor, labels: torch.Tensor, objective: Objective = cross_entropy_each
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(values [N], logits [N, K], gradients of the values as ``images``): each image's own, in eval mode."""
    images = images.detach().requires_grad_(True)
    logits = predict(images)
    values = objective(logits, labels)
    (gradient,) = torch.autograd.grad(values.sum(), images)
    return values.detach(), logits.detach(), gradient


def within(found: torch.Tensor, near: torch.Tensor, bound: Bound) -> torch.Tensor:
    """The nearest images in [0, 1] whose pixels differ from those of ``near`` by at most ``bound``."""
    return torch.minimum(torch.maximum(found, near - bound), near + bound).clamp(0, 1)


def random_start(near: torch.Tensor, bound: Bound, generator: torch.Generator) -> torch.Tensor:
    """Images with independent uniform noise within the bound; drawn on the CPU, so that devices agree."""
    noise = torch.rand(near.shape, generator=generator).to(near)
    return within(near + bound * (2 * noise - 1), near, bound)


def per_image(flags: torch.Tensor) -> torch.Tensor:
    """One flag per image [N] as [N, 1, 1, 1]."""
    return flags[:, None, None, None]
