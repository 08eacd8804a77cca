"""Auto-PGD (Croce and Hein 2020) in the maximum norm: momentum, and step sizes that halve by themselves."""

from __future__ import annotations

import math

import torch

from ..losses import cross_entropy_each
from .slopes import Bound, Objective, Predict, per_image, random_start, slope, within

MOMENTUM = 0.75  # share of the new step
ENOUGH = 0.75  # share of the steps since the last checkpoint that must have climbed


def apgd(
    predict: Predict,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    bound: Bound,
    steps: int,
    generator: torch.Generator,
    objective: Objective = cross_entropy_each,
) -> torch.Tensor:
    """Images near ``images`` float [N, C, H, W] in [0, 1] on which ``objective`` with ``labels`` int64 [N] is high.

    predict: images -> logits, in eval mode. bound: largest change of a pixel, in [0, 1]. Each image comes as it was when
    it was last misclassified, else where the objective was highest. Croce and Hein 2020, algorithm 1; after a restart
    from the best point the momentum is 0, on which the paper is silent.
    """
    near = images.detach()
    found = random_start(near, bound, generator)
    value, logits, gradient = slope(predict, found, labels, objective)
    broken = logits.argmax(1) != labels
    kept = found
    best, best_value, best_gradient = found, value, gradient
    before = found
    rate = 2 * bound * torch.ones(len(near), 1, 1, 1, device=near.device)
    climbed, halved, marked = torch.zeros_like(value), torch.zeros_like(broken), best_value
    last, marks = 0, checkpoints(steps)
    for step in range(1, steps + 1):
        share = MOMENTUM if step > 1 else 1.0
        ahead = within(found + rate * gradient.sign(), near, bound)
        ahead = within(found + share * (ahead - found) + (1 - share) * (found - before), near, bound)
        before, found, previous = found, ahead, value
        value, logits, gradient = slope(predict, found, labels, objective)
        wrong = logits.argmax(1) != labels
        kept, broken = torch.where(per_image(wrong), found, kept), broken | wrong
        better = value > best_value
        best_value = torch.where(better, value, best_value)
        best, best_gradient = (
            torch.where(per_image(better), new, old) for new, old in ((found, best), (gradient, best_gradient))
        )
        climbed += (value > previous).float()
        if step in marks:
            halve = (climbed < ENOUGH * (step - last)) | (~halved & (best_value <= marked))
            rate = torch.where(per_image(halve), rate / 2, rate)
            found, before = (torch.where(per_image(halve), best, old) for old in (found, before))
            gradient, value = (
                torch.where(per_image(halve), best_gradient, gradient),
                torch.where(halve, best_value, value),
            )
            climbed, halved, marked, last = torch.zeros_like(value), halve, best_value, step
    return torch.where(per_image(broken), kept, best)


def checkpoints(steps: int) -> set[int]:
    """The steps after which the rate may halve: ⌈p_j · steps⌉, p_1 = 0.22, intervals shorter by 0.03 down to 0.06."""
    found, share, width = set(), 0.22, 0.22
    while share <= 1:
        found.add(math.ceil(share * steps - 1e-9))
        width = max(width - 0.03, 0.06)
        share += width
    return found
