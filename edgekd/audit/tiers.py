"""How hard a network is attacked: four tiers, each a row of attacks, from seconds to AutoAttack's standard set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from edgekd.losses import cross_entropy_each, dlr_targeted, margin, margin_targeted
from edgekd.perturb import Objective, Predict, apgd, each_target, fab, pgd, square

# predict, images [N, C, H, W], labels [N], bounds [N, 1, 1, 1], generator -> images within their bounds
Run = Callable[[Predict, torch.Tensor, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Attack:
    """settings: all that decides what it does, plain JSON; the length of a step as a share of the bound."""

    name: str
    settings: Mapping[str, Any]
    run: Run


@dataclass(frozen=True)
class Tier:
    """images: attacked by default. queries: of Square, where it stands alone. forwards: what an image costs, about, in
    forward passes. every: each attack sees all images, not
    only what those before it left. thorough: with the curve over smaller bounds, the radius and every test for masking.
    """

    images: int
    attacks: tuple[Attack, ...]
    queries: int
    forwards: int
    about: str
    every: bool = False
    thorough: bool = True


def fgsm() -> Attack:
    """One step of the bound's length (Goodfellow et al. 2015)."""

    def run(predict: Predict, x: torch.Tensor, y: torch.Tensor, bound: torch.Tensor, _: object) -> torch.Tensor:
        return pgd(predict, x, y, bound=bound, rate=bound, steps=1)

    return Attack("FGSM", {"steps": 1, "step": 1.0, "restarts": 1, "objective": "cross-entropy"}, run)


def pgd_of(steps: int, objective: Objective = cross_entropy_each, said: str = "cross-entropy") -> Attack:
    """PGD from one random start, by steps of a quarter of the bound, of 2.5 / steps of it beyond twenty steps."""
    step = 0.25 if steps <= 20 else 2.5 / steps

    def run(
        predict: Predict, x: torch.Tensor, y: torch.Tensor, bound: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        how: dict[str, Any] = {"bound": bound, "rate": step * bound, "steps": steps, "generator": generator}
        return pgd(predict, x, y, **how, objective=objective, keep=True)

    name = f"PGD-{steps}" if said == "cross-entropy" else f"PGD-{steps}, {said}"
    return Attack(name, {"steps": steps, "step": step, "restarts": 1, "objective": said}, run)


def apgd_ce(steps: int) -> Attack:
    """Auto-PGD on cross-entropy."""

    def run(
        predict: Predict, x: torch.Tensor, y: torch.Tensor, bound: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        return apgd(predict, x, y, bound=bound, steps=steps, generator=generator)

    return Attack("APGD-CE", {"steps": steps, "step": "auto", "restarts": 1, "objective": "cross-entropy"}, run)


def apgd_t(steps: int, targets: int) -> Attack:
    """Auto-PGD on the targeted DLR loss; on the targeted margin where there are fewer than four classes."""

    def run(
        predict: Predict, x: torch.Tensor, y: torch.Tensor, bound: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        def towards(index: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            def climbed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
                return (dlr_targeted if logits.shape[1] >= 4 else margin_targeted)(logits, labels, t)

            how: dict[str, Any] = {"bound": bound[index], "steps": steps, "generator": generator}
            return apgd(predict, x[index], y[index], **how, objective=climbed)

        return each_target(predict, x, y, count=targets, attack=towards)

    settings = {"steps": steps, "step": "auto", "restarts": 1, "targets": targets, "objective": "targeted DLR"}
    return Attack("APGD-T", settings, run)


def fab_t(steps: int, targets: int) -> Attack:
    """FAB towards one class after another; what it finds beyond the bound does not count."""

    def run(predict: Predict, x: torch.Tensor, y: torch.Tensor, bound: torch.Tensor, _: object) -> torch.Tensor:
        def towards(index: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            found = fab(predict, x[index], y[index], t, steps=steps)
            inside = (found - x[index]).abs().amax((1, 2, 3), keepdim=True) <= bound[index]
            return torch.where(inside, found, x[index])

        return each_target(predict, x, y, count=targets, attack=towards)

    return Attack("FAB-T", {"steps": steps, "restarts": 1, "targets": targets, "objective": "distance"}, run)


def square_of(queries: int) -> Attack:
    """Square: no gradients."""

    def run(
        predict: Predict, x: torch.Tensor, y: torch.Tensor, bound: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        return square(predict, x, y, bound=bound, queries=queries, generator=generator)

    return Attack("Square", {"queries": queries, "restarts": 1, "objective": "margin"}, run)


MARGIN = pgd_of(20, margin, "margin")
TIERS = {
    "smoke": Tier(200, (fgsm(), pgd_of(10)), 100, 40, "seconds; only finds breakage", every=True, thorough=False),
    "quick": Tier(500, (pgd_of(20), MARGIN), 500, 400, "a minute or two; for development", every=True),
    "standard": Tier(1000, (apgd_ce(50), apgd_t(50, 3), square_of(500)), 500, 900, "minutes; for reports"),
    "full": Tier(
        1000,
        (apgd_ce(100), apgd_t(100, 9), fab_t(100, 9), square_of(5000)),
        5000,
        15_000,
        "AutoAttack's standard set; hours, for claims",
    ),
}
