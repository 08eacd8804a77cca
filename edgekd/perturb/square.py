"""Square (Andriushchenko et al. 2020) in the maximum norm: random squares of noise, kept where they help; no gradients."""

from __future__ import annotations

import torch

from ..losses import margin
from .slopes import Bound, Predict, within

FIRST = 0.8  # of the image's area, the first squares
# (queries of 10,000 after which, the squares' area is that part of the first one)
SHRINKING = ((10, 2), (50, 4), (200, 8), (500, 16), (1000, 32), (2000, 64), (4000, 128), (6000, 256), (8000, 512))


@torch.no_grad()
def square(
    predict: Predict,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    bound: Bound,
    queries: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Images near ``images`` float [N, C, H, W] in [0, 1] whose margin after ``queries`` forward passes is largest.

    predict: images -> logits, in eval mode. bound: largest change of a pixel, in [0, 1]. It begins with vertical stripes;
    an image that is misclassified is left alone. No random number hangs on what the network says. Algorithm 2 of the
    paper with its schedule stretched to ``queries``.
    """
    near, count = images.detach(), len(images)
    channels, height, width = near.shape[1:]

    def signs(*shape: int) -> torch.Tensor:
        return (2 * torch.randint(2, shape, generator=generator) - 1).to(near)

    best = within(near + bound * signs(count, channels, 1, width), near, bound)
    value = margin(predict(best), labels)
    for query in range(1, queries):
        side = max(1, round((area(FIRST, query, queries) * height * width) ** 0.5))
        side = min(side, height, width)
        corners = torch.rand(count, 2, generator=generator)
        noise = 2 * bound * signs(count, channels, 1, 1)
        left = (value <= 0).nonzero()[:, 0]
        if not len(left):
            break
        window = windows(corners, side, height, width).to(near)
        limit = bound[left] if isinstance(bound, torch.Tensor) else bound
        tried = within(best[left] + (noise * window)[left], near[left], limit)
        found = margin(predict(tried), labels[left])
        better = found > value[left]
        value[left[better]], best[left[better]] = found[better], tried[better]
    return best


def area(share: float, query: int, queries: int) -> float:
    """Share of the image's area that a square covers at ``query`` of ``queries``."""
    passed = 10_000 * query / queries
    return share / next((part for limit, part in reversed(SHRINKING) if passed > limit), 1)


def windows(corners: torch.Tensor, side: int, height: int, width: int) -> torch.Tensor:
    """Squares [N, 1, H, W] of ones at random places; corners: [N, 2] in [0, 1), of the room there is."""
    top, left = ((corners[:, axis] * (room - side + 1)).long()[:, None] for axis, room in enumerate((height, width)))
    rows, columns = torch.arange(height)[None], torch.arange(width)[None]
    inside = [(start <= line) & (line < start + side) for start, line in ((top, rows), (left, columns))]
    return inside[0][:, None, :, None] & inside[1][:, None, None, :]
