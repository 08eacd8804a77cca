"""Tests for masked gradients: what shows that attacks by gradients failed, and not that the network resisted.

A network that fails one has an accuracy under attack that is worth nothing. From the method card adversarial_eval, 5.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from edgekd.audit import doubts
from edgekd.audit.tiers import Attack, fgsm, pgd_of
from edgekd.audit.trial import Trial
from edgekd.losses import cross_entropy_each
from edgekd.perturb import Predict, slope

HUGE = 0.5  # a bound within which every picture may become grey
BIG_GAP, GAP, SMALL_GAP, DEAD = 0.05, 0.01, 0.005, 0.001
ALONE = 8  # images that are shown a second time without the others
TAKES = 0.5  # of what the attack takes: more than noise may
CHANCE = 0.05  # that a sound evaluation fails the test of more steps
SIZE = "the size of the logits hides nothing"
Check = dict[str, Any]


def check(name: str, passed: bool | None, found: str) -> Check:
    """passed: None for what is told alone. Plain JSON."""
    return {"check": name, "passed": passed, "found": found}


def slack(share: float, images: int) -> float:
    """A difference of accuracies that is none: ``share``, or two images where that is less."""
    return max(share, 2 / images) + 1e-9


def basic(predict: Predict, trial: Trial) -> list[Check]:
    """What costs a few passes: answers repeat, hang on their own image alone, are logits, and have gradients."""
    images = trial.pixels[trial.few]
    once, twice = (trial.logits(predict, images) for _ in range(2))
    alone = trial.logits(predict, images[:ALONE])
    shift = float((alone - once[: len(alone)]).abs().median()) / max(float(once.std()), 1e-12)
    same, sums = torch.equal(once, twice), doubts.are_probabilities(np.asarray(once))
    dead = 0
    for part in trial.few.split(trial.at_once):
        x, y = trial.placed(trial.pixels[part]), trial.labels[part].to(trial.device)
        gradient = slope(predict, x, y)[2].flatten(1)
        dead += int((~torch.isfinite(gradient).all(1) | (gradient == 0).all(1)).sum())
    return [
        check("the same answer twice", same, "bit for bit" if same else "the answers differ"),
        check(
            "each image by itself", shift <= 0.01, f"in another batch the outputs move by {shift:.1%} of their spread"
        ),
        check("outputs are logits", not sums, "they sum to one: probabilities" if sums else "they do not sum to one"),
        check("gradients are there", dead / len(images) < DEAD, f"{dead} of {len(images)} images have none"),
    ]


def thorough(predict: Predict, trial: Trial, survives: torch.Tensor) -> list[Check]:
    """What costs attacks of its own, on a few of the images; errors on clean images count as lost.

    survives: bool [N], what every attack of the tier left.
    """
    count = len(trial.few)
    logits = trial.logits(predict, trial.pixels[trial.few])
    index = trial.few[logits.argmax(1) == trial.labels[trial.few]]
    size = float(logits.std().clamp_min(1e-12))

    def left(attack: Attack, bound: float | None = None) -> float:
        return float(trial.left(predict, attack, index, bound).sum()) / count

    clean, plain = len(index) / count, left(pgd_of(20))
    withstood = trial.few[survives[trial.few]]
    broken = int((~trial.left(predict, pgd_of(100), withstood)).sum())
    huge, noisy = left(pgd_of(20), HUGE), left(NOISE)
    divided = left(pgd_of(20, lambda z, y: cross_entropy_each(z / size, y), "small logits"))
    return [
        one_step(left(fgsm()), plain, count),
        more_steps(broken, len(withstood), count),
        check(
            "a huge bound breaks all",
            huge <= 1 / logits.shape[1] + slack(0, count),
            f"PGD-20 within {HUGE:g} leaves {huge:.1%}",
        ),
        check(
            "noise is weaker",
            clean - plain < BIG_GAP or clean - noisy <= TAKES * (clean - plain),
            f"of {clean:.1%}, noise of that size leaves {noisy:.1%}, PGD-20 {plain:.1%}",
        ),
        check(
            SIZE,
            plain - divided <= BIG_GAP,
            f"PGD-20 leaves {plain:.1%}, {divided:.1%} where the logits are divided by their spread",
        ),
        linearity(predict, trial, index),
    ]


def _noise(_: object, x: torch.Tensor, __: object, bound: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.rand(x.shape, generator=generator).to(x)
    return (x + bound * (2 * noise - 1)).clamp(0, 1)


NOISE = Attack("noise", {}, _noise)


def linearity(predict: Predict, trial: Trial, index: torch.Tensor) -> Check:
    """|l(x + d) - l(x) - ⟨d, g⟩| over |l(x + d) - l(x)|, sums over images at d = bound · sign(g); told alone."""
    bent = risen = 0.0
    for part in index.split(trial.at_once):
        x, y = trial.placed(trial.pixels[part]), trial.labels[part].to(trial.device)
        value, _, gradient = slope(predict, x, y)
        step = (x + trial.bound * gradient.sign()).clamp(0, 1) - x
        with torch.no_grad():
            rise = cross_entropy_each(predict(x + step), y) - value
        bent += float((rise - (gradient * step).flatten(1).sum(1)).abs().sum())
        risen += float(rise.abs().sum())
    return check("local linearity", None, f"{bent / max(risen, 1e-12):.2f} of the loss's rise is not linear")


# ---- from accuracies that the evaluation measured anyway: fractions of all images ------------------------------------------


def one_step(single: float, several: float, images: int) -> Check:
    words = f"FGSM leaves {single:.1%}, PGD {several:.1%}"
    return check("many steps beat one", several <= single + slack(SMALL_GAP, images), words)


def more_steps(broken: int, withstood: int, images: int) -> Check:
    """What PGD-100, from a start of its own, breaks of that which the tier's attacks had left.

    What counts is what the tier missed, not by how much one attack beats another. It may miss a hundredth of the images:
    the test fails where so many would turn up with a chance below 5 % (binomial), so 4 of 100 or 3 of 60.
    """
    words = f"PGD-100 breaks {broken} of {withstood} images that withstood the tier's attacks, of {images} in all"
    return check("more steps find little more", at_least(broken, images, GAP) >= CHANCE, words)


def at_least(hits: int, images: int, share: float) -> float:
    """P(X ≥ hits), X binomial of so many images and that share."""
    fewer = (math.comb(images, k) * share**k * (1 - share) ** (images - k) for k in range(hits))
    return 1 - math.fsum(fewer)


def falling(curve: Sequence[tuple[float, float]], images: int) -> Check:
    """curve: (bound, accuracy left), by rising bound."""
    enough = slack(SMALL_GAP, images)
    rises = [after - before for (_, before), (_, after) in itertools.pairwise(curve)]
    words = ", ".join(f"{255 * bound:.3g}/255: {left:.1%}" for bound, left in curve)
    return check("a larger bound leaves less", all(rise <= enough for rise in rises), words)


def by_margin(plain: float, ratio: float, saturated: bool = True) -> Check:
    """Accuracies left by cross-entropy and by the margin: each alone, or the margin after cross-entropy.

    saturated: whether a gap is the loss's fault. After cross-entropy a second attack takes some of honest networks too, so
    there the gap is told alone, and fails only where ``SIZE`` fails beside it: divided by their spread, as the card
    adversarial_eval 5.8 wants it repeated, the logits give more way to cross-entropy itself.
    """
    words, small = f"cross-entropy leaves {plain:.1%}, the margin {ratio:.1%}", plain - ratio <= BIG_GAP + 1e-9
    return check("the margin is not much stronger", True if small else False if saturated else None, words)


def by_queries(broken: int, images: int) -> Check:
    """What Square broke of that which other attacks had left."""
    words = f"Square breaks {broken} of {images} images that withstood the gradients"
    return check("queries are not stronger", broken / images <= slack(SMALL_GAP, images), words)
