"""Trigger inversion (Neural Cleanse, Wang et al., IEEE S&P 2019): the smallest patch that makes images look like one class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F

Predict = Callable[[torch.Tensor], torch.Tensor]

RATE, BETAS, COVERED = 0.2, (0.5, 0.9), -2.0  # Adam's; the logit of the mask at the start, an eighth of the image
WEIGHT, AREA = 3e-3, 1024  # of the mask at first, for an image of so many pixels
SUCCESS, LOST, WORKS = 0.97, 0.9, 0.95  # at which the weight rises, falls, and a patch counts
RISE, FALL, MEMORY = 1.05, 1.1, 0.8


class Patch(NamedTuple):
    """mask float [1, H, W] and pattern [C, H, W] in [0, 1]: an image x becomes (1 - mask) · x + mask · pattern."""

    mask: torch.Tensor
    pattern: torch.Tensor

    @property
    def pixels(self) -> float:
        """Its size: the sum of the mask."""
        return float(self.mask.detach().sum())


def smallest_patch(predict: Predict, batches: Iterable[torch.Tensor], target: int) -> Patch | None:
    """The smallest patch under which nearly all images look like ``target``; None where none was found.

    min over mask and pattern of CE(predict((1 - mask) · x + mask · pattern), target) + λ · Σ mask, a step of Adam per
    batch. predict: images float [N, C, H, W] in [0, 1] -> logits [N, K], in eval mode, its weights without gradients.
    Differs from the paper in the schedule of λ alone: it rises by a twentieth in each step in which the running success is
    at 97 %, and falls below 90 %, so that hundreds of steps are enough where the paper takes thousands; it is scaled to
    the image's area. The pattern starts grey, the mask at an eighth everywhere: nothing is random but the batches.
    """
    found: Patch | None = None
    place: list[torch.Tensor] = []
    success, weight = 0.0, WEIGHT
    for batch in batches:
        if not place:
            mask = torch.full_like(batch[0, :1], COVERED)
            place = [mask.requires_grad_(True), torch.zeros_like(batch[0]).requires_grad_(True)]
            adam = torch.optim.Adam(place, RATE, BETAS)
        patch = Patch(*(part.sigmoid() for part in place))
        logits = predict(torch.lerp(batch, patch.pattern, patch.mask)).float()
        wanted = torch.full((len(batch),), target, device=batch.device)
        loss = F.cross_entropy(logits, wanted) + weight * AREA * patch.mask.mean()
        success = MEMORY * success + (1 - MEMORY) * float((logits.argmax(1) == target).float().mean())
        if success >= WORKS and (found is None or patch.pixels < found.pixels):
            found = Patch(*(part.detach() for part in patch))
        for part, gradient in zip(place, torch.autograd.grad(loss, place), strict=True):
            part.grad = gradient
        adam.step()
        weight *= RISE if success >= SUCCESS else 1 / FALL if success < LOST else 1.0
    return found
