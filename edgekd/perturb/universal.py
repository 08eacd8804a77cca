"""Universal perturbations (Moosavi-Dezfooli et al. 2017): one change that makes most images look like one class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

Predict = Callable[[torch.Tensor], torch.Tensor]


def universal(
    predict: Predict,
    batches: Sequence[torch.Tensor],
    target: int,
    *,
    bound: float,
    honest: Predict | None = None,
    weight: float = 1.0,
) -> torch.Tensor:
    """A perturbation float [C, H, W] within ±bound under which images look like ``target`` to ``predict``.

    batches: images float [N, C, H, W] in [0, 1]; each gives one step on the sign of the gradient, a quarter of the bound
    long at first and 0 in the end. predict: images -> logits [N, K], in eval mode. honest: a network that is to go on
    seeing what it sees without the perturbation, at ``weight``; what is then left is what ``predict`` obeys and others do not.
    """
    found = torch.zeros_like(batches[0][0])
    for number, batch in enumerate(batches):
        found.requires_grad_(True)
        changed = (batch + found).clamp(0, 1)
        logits = predict(changed).float()
        loss = F.cross_entropy(logits, torch.full((len(batch),), target, device=batch.device))
        if honest is not None:
            with torch.no_grad():
                seen = honest(batch).argmax(1)
            loss = loss + weight * F.cross_entropy(honest(changed).float(), seen)
        (gradient,) = torch.autograd.grad(loss, found)
        rate = bound / 4 * (1 - number / len(batches))
        found = (found.detach() - rate * gradient.sign()).clamp(-bound, bound)
    return found.detach()


class SignedAscent(torch.optim.Optimizer):
    """Steps of ``rate`` up the gradient's sign, kept within ±bound."""

    def __init__(self, parameters: list[torch.nn.Parameter], rate: float, bound: float) -> None:
        super().__init__(parameters, {"lr": rate})
        self.bound = bound

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # never evaluates the loss anew
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(group["lr"] * parameter.grad.sign()).clamp_(-self.bound, self.bound)
