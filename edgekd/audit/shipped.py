"""Adversarial robustness of a file that gives no gradients: by examples made on networks like it, and by queries.

Rounding to INT8 hides gradients and is no defence: what counts is what the file itself answers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from edgekd.audit import doubts, masking
from edgekd.audit.tiers import TIERS, square_of
from edgekd.audit.trial import Trial
from edgekd.audit.under_attack import Robustness, Round, battle, rounds
from edgekd.data import ImageSet
from edgekd.errors import UsageError
from edgekd.perturb import Predict
from edgekd.types import Rate

MORE_THAN_FLOAT = 0.02  # of accuracy under attack: what a file has beyond its network is masking
SAME_LABELS = 0.98


def robustness_of_file(
    predict: Predict,
    images: ImageSet,
    tier: str,
    bound: float,
    *,
    copy: Robustness | None,
    network: Robustness | None = None,
    why: str = "",
    **how: Any,
) -> Robustness:
    """Attack a file by the examples found on its straight-through copy and on the network it was made from, then Square.

    predict: float images [N, C, H, W] in [0, 1] -> logits, no gradients. Examples are tried as they are and rounded to 8
    bits, as a camera would deliver them. copy, network: from ``robustness`` with the same images; how: as there. why: there is no
    copy. Raises UsageError where they are of other images.
    """
    started, trial = time.monotonic(), Trial(images, tier, bound, **how)
    sources = {one.table["name"]: one for one in (copy, network) if one is not None}
    if any(one.trial.chosen.sha256 != trial.chosen.sha256 for one in sources.values()):
        raise UsageError("Examples can only be transferred between networks that were attacked on the same images.")
    logits = trial.logits(predict, trial.pixels)
    doubts.refuse_unreadable(logits.numpy(), trial.chosen.labels)
    right = logits.argmax(1) == trial.labels
    examples = [one for source in sources.values() for one in _carried(source)]
    carried = battle(predict, trial, right, examples, every=True)
    queries = rounds(predict, trial, [square_of(TIERS[tier].queries)])
    asked = battle(predict, trial, carried.survives, queries)
    # Square found nothing new for what the examples had broken
    found = torch.where(carried.survives[:, None, None, None], asked.found, carried.found)
    robust = Rate(**trial.rate(asked.survives))
    table = {
        **trial.about(),
        "clean": trial.rate(right),
        "attacks": [*carried.rows, *asked.rows],
        "robust": robust.to_json(),
        "curve": [],
        "radius": None,
        "disagreement": {name: _differs(predict, trial, one) for name, one in sources.items()},
        "checks": _checks(trial, logits, robust, carried.withstood, copy, network, why, asked.rows[0]["broken"]),
        "seconds": round(time.monotonic() - started, 1),
    }
    return Robustness(table, trial, found, predict, asked.survives)


def _carried(source: Robustness) -> tuple[Round, Round]:
    """The examples found on another network, and the same rounded to 8 bits."""
    name, trial = source.table["name"], source.trial

    def rounded(index: torch.Tensor) -> torch.Tensor:
        return eight_bits(source.found[index], trial.pixels[index], trial.bound)

    return (
        Round(f"examples of {name}", {"from": name, "bits": 32}, lambda index: source.found[index]),
        Round(f"examples of {name}, 8 bits", {"from": name, "bits": 8}, rounded),
    )


def eight_bits(found: torch.Tensor, near: torch.Tensor, bound: float) -> torch.Tensor:
    """The nearest images of 8 bits within ``bound`` of ``near``, which are images of 8 bits: all [N, C, H, W]."""
    tiny = 1e-3  # of a level: what float32 loses
    low, high = (255 * (near - bound) - tiny).ceil(), (255 * (near + bound) + tiny).floor()
    return torch.minimum(torch.maximum((255 * found).round(), low), high).clamp(0, 255) / 255


def _differs(predict: Predict, trial: Trial, source: Robustness) -> dict[str, int]:
    """Adversarial images to which the file and the network they were found on give different labels."""
    labels = [trial.logits(net, source.found).argmax(1) for net in (predict, source.predict)]
    return trial.rate(labels[0] != labels[1])


def _checks(
    trial: Trial,
    logits: torch.Tensor,
    robust: Rate,
    withstood: Mapping[str, torch.Tensor],
    copy: Robustness | None,
    network: Robustness | None,
    why: str,
    broken: int,
) -> list[masking.Check]:
    count, found = len(trial), []
    if copy is None:
        words = f"no copy with gradients could be made of it, so the robust accuracy is an upper bound. {why}".rstrip(
            " ."
        )
        found.append(masking.check("gradients are there", False, words))
    else:
        same = Rate(**trial.rate(logits.argmax(1) == trial.logits(copy.predict, trial.pixels).argmax(1)))
        words = f"on {same.value:.1%} of the clean images"
        found.append(masking.check("the copy gives the file's labels", same.value >= SAME_LABELS, words))
    for one in (copy, network):
        if one is not None:
            words = f"{robust.value:.1%} left, of {one.table['name']} {one.robust.value:.1%}"
            passed = robust.value - one.robust.value <= masking.slack(MORE_THAN_FLOAT, count)
            found.append(masking.check(f"no more robust than {one.table['name']}", passed, words))
    if copy is not None and network is not None:
        left = [float(withstood[f"examples of {one.table['name']}"].float().mean()) for one in (copy, network)]
        words = f"examples of the copy leave {left[0]:.1%}, of the network {left[1]:.1%}"
        passed = left[0] <= left[1] + masking.slack(MORE_THAN_FLOAT, count)
        found.append(masking.check("the copy's examples carry over best", passed, words))
    return [*found, masking.by_queries(broken, count)]
