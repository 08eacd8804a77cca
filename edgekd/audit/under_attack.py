"""Adversarial robustness: the accuracy that is left where an image counts only if every attack fails on it.

Threat model: no pixel changes by more than the bound, images stay in [0, 1], any wrong label is a success. The denominator
is every image that was chosen: errors on clean images count as not robust.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch

from edgekd.audit import doubts, masking
from edgekd.audit.tiers import TIERS, Attack, pgd_of, square_of
from edgekd.audit.trial import Trial
from edgekd.data import ImageSet
from edgekd.perturb import Predict
from edgekd.types import Rate

CURVE = (1 / 8, 1 / 4, 1 / 2, 1)  # of the bound
NARROWEST, WIDEST, HALVINGS = 0.1 / 255, 0.5, 8  # of the search for an image's own radius


class Robustness(NamedTuple):
    """table: plain JSON. found: float [N, C, H, W], every chosen image as it was attacked last. survives: bool [N]."""

    table: dict[str, Any]
    trial: Trial
    found: torch.Tensor
    predict: Predict
    survives: torch.Tensor

    @property
    def robust(self) -> Rate:
        return Rate(**self.table["robust"])


def robustness(predict: Predict, images: ImageSet, tier: str, bound: float, **how: Any) -> Robustness:
    """Attack a network by its own gradients; by Square alone where it gives none.

    predict: float images [N, C, H, W] in [0, 1] -> logits, in eval mode, on the device of ``how``. tier: a row of TIERS.
    bound: largest change of a pixel, in [0, 1]. how: name, seed, count, device, progress of a Trial. The table holds the
    accuracy on clean images, after every attack and in the worst case, the curve over smaller bounds, the median radius
    and the checks. Raises UsageError for an unknown tier and for outputs that are no logits of these classes.
    """
    started, trial = time.monotonic(), Trial(images, tier, bound, **how)
    logits = trial.logits(predict, trial.pixels)
    doubts.refuse_unreadable(logits.numpy(), trial.chosen.labels)
    right = logits.argmax(1) == trial.labels
    gradients = _differentiable(predict, trial)
    attacks = TIERS[tier].attacks if gradients else (square_of(TIERS[tier].queries),)
    made = battle(predict, trial, right, rounds(predict, trial, attacks), every=TIERS[tier].every)
    table = {**trial.about(), "clean": trial.rate(right), "attacks": made.rows, "robust": trial.rate(made.survives)}
    table |= _beyond(predict, trial, right, made) if gradients else _blind()
    table["seconds"] = round(time.monotonic() - started, 1)
    return Robustness(table, trial, made.found, predict, made.survives)


class Round(NamedTuple):
    """One attack in a battle; make: positions int64 [M] -> those images under attack [M, C, H, W]."""

    name: str
    settings: Mapping[str, Any]
    make: Callable[[torch.Tensor], torch.Tensor]


class Battle(NamedTuple):
    """rows: one per round. withstood: by round, bool [N]. survives: bool [N]. found: float [N, C, H, W]."""

    rows: list[dict[str, Any]]
    withstood: dict[str, torch.Tensor]
    survives: torch.Tensor
    found: torch.Tensor


def rounds(predict: Predict, trial: Trial, attacks: Iterable[Attack]) -> list[Round]:
    """A round for each attack on one network."""
    return [Round(a.name, a.settings, functools.partial(trial.attacked, predict, a)) for a in attacks]


def battle(
    predict: Predict, trial: Trial, right: torch.Tensor, order: Iterable[Round], *, every: bool = False
) -> Battle:
    """One round after another; right: bool [N], the images that are attacked. every: each round sees all of them."""
    survives, found = right.clone(), trial.pixels.clone()
    rows, each = [], {}
    for one in order:
        index = (right if every else survives).nonzero()[:, 0]
        made = one.make(index)
        withstood = torch.zeros_like(right)
        withstood[index] = trial.withstood(predict, made, index)
        held = survives[index]
        found[index[held]] = made[held]
        broken = int((survives & ~withstood).sum())
        survives = survives & withstood
        each[one.name] = withstood
        rows.append(
            {
                "attack": one.name,
                "settings": dict(one.settings),
                "tried": len(index),
                "broken": broken,
                "alone": trial.rate(withstood) if every else None,
                "left": trial.rate(survives),
            }
        )
    return Battle(rows, each, survives, found)


def _differentiable(predict: Predict, trial: Trial) -> bool:
    with torch.enable_grad():
        return bool(predict(trial.placed(trial.pixels[:1]).requires_grad_(True)).requires_grad)


def _blind() -> dict[str, Any]:
    words = "the network gives none: it was attacked by queries only, so the robust accuracy is an upper bound"
    return {"curve": [], "radius": None, "checks": [masking.check("gradients are there", False, words)]}


def _beyond(predict: Predict, trial: Trial, right: torch.Tensor, made: Battle) -> dict[str, Any]:
    """Curve, radius and checks of a network with gradients.

    The curve is PGD-20 on a fixed part of the images (``Trial.several``), the same at every bound and for every network:
    on all of them it would cost a quarter to half of the evaluation. Its rates say how many they are.
    """
    count, alone = len(trial), {name: float(flags.float().mean()) for name, flags in made.withstood.items()}
    found = masking.basic(predict, trial)
    if not TIERS[trial.tier].thorough:
        return {
            "curve": [],
            "radius": None,
            "checks": [*found, masking.one_step(alone["FGSM"], alone["PGD-10"], count)],
        }
    some, curve = trial.several, []
    for share in CURVE:
        known = made.withstood.get("PGD-20") if share == 1 else None
        left = trial.left(predict, pgd_of(20), some[right[some]], share * trial.bound) if known is None else known[some]
        curve.append((share * trial.bound, Rate(int(left.sum()), len(some)).to_json()))
    found += masking.thorough(predict, trial, made.survives)
    found.append(masking.falling([(bound, Rate(**left).value) for bound, left in curve], len(some)))
    saturated = any(one["check"] == masking.SIZE and one["passed"] is False for one in found)
    found += _by_margin(made, alone, count, saturated)
    found += [masking.by_queries(row["broken"], count) for row in made.rows if row["attack"] == "Square"]
    return {
        "curve": [{"bound": bound, "left": left} for bound, left in curve],
        "radius": radius(predict, trial),
        "checks": found,
    }


def _by_margin(made: Battle, alone: Mapping[str, float], count: int, saturated: bool) -> list[masking.Check]:
    """Each alone where every attack saw all images; else by what APGD-T broke of that which APGD-CE had left."""
    if "PGD-20, margin" in alone:
        return [masking.by_margin(alone["PGD-20"], alone["PGD-20, margin"])]
    targeted = (row for row in made.rows if row["attack"] == "APGD-T")
    return [masking.by_margin(row["tried"] / count, Rate(**row["left"]).value, saturated) for row in targeted]


def radius(predict: Predict, trial: Trial) -> float:
    """The median over a few images of the least bound at which PGD-20 succeeds, by bisection; 0 for a clean error.

    In [0, 1], to three parts in a hundred.
    """
    few = trial.few
    right = trial.withstood(predict, trial.pixels[few], few)
    low = torch.full((len(few),), math.log(NARROWEST))
    high = torch.full((len(few),), math.log(WIDEST))
    index = right.nonzero()[:, 0]
    for step in range(HALVINGS):
        trial.tell("radius", step, HALVINGS)
        middle = (low[index] + high[index]) / 2
        left = trial.left(predict, pgd_of(20), few[index], middle.exp())
        low[index] = torch.where(left, middle, low[index])
        high[index] = torch.where(left, high[index], middle)
    trial.tell("radius", HALVINGS, HALVINGS)
    return float(torch.where(right, high.exp(), torch.zeros(())).median())
