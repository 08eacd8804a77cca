"""Losses of distillation without data: what synthetic images are driven by, and what is suspected of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F

from ..errors import EdgekdError

LEAST = 1e-12  # a divergence below this counts as this
MAD = 1.4826  # median absolute deviation -> standard deviation of a Gaussian

TailRule = Literal["mad", "mean"]


def kl_each(teacher: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(softmax(teacher) ‖ softmax(other)) of every image, [N] float32, in nats; logits [N, K], gradients through both.

    Raises ValueError where the shapes differ.
    """
    if teacher.shape != other.shape or teacher.dim() != 2:
        raise ValueError(f"logits {tuple(teacher.shape)} and {tuple(other.shape)} are not two [N, K] of one shape")
    first, second = F.log_softmax(teacher.float(), 1), F.log_softmax(other.float(), 1)
    return F.kl_div(second, first, reduction="none", log_target=True).sum(1)


def class_balance(logits: torch.Tensor) -> torch.Tensor:
    """Σ_c p_c log p_c of the batch's mean prediction p, a scalar: −log K where every class is as frequent, 0 where one is all.

    logits [N, K]. Chen et al. 2019 (DAFL), the information entropy loss with its sign turned.
    """
    mean = F.softmax(logits.float(), 1).mean(0)
    return (mean * mean.clamp_min(LEAST).log()).sum()


def statistics_distance(
    features: Sequence[torch.Tensor], running: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """Σ over batch norms of ‖μ_batch − μ_run‖₂ + ‖σ²_batch − σ²_run‖₂, a scalar.

    features: what each norm was given, [N, C, ...]; running: its mean and variance [C]. The batch's variance is the biased
    one. Yin et al. 2020 (DeepInversion), eq. 4.
    """
    total = []
    for feature, (mean, variance) in zip(features, running, strict=True):
        rows = feature.float().transpose(0, 1).flatten(1)
        total += [(rows.mean(1) - mean).norm(), (rows.var(1, correction=0) - variance).norm()]
    return torch.stack(total).sum()


def disagreement(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean over images of KL(teacher ‖ student) where both still name one class, 0 elsewhere; a scalar to be raised.

    logits [N, K]. Yin et al. 2020 (adaptive DeepInversion) in the form of Fang et al. 2021 (CMI): L_adv is its negative.
    """
    same = (student.argmax(1) == teacher.argmax(1)).float()
    return (same * kl_each(teacher, student)).mean()


def matched_pairs(queries: torch.Tensor, keys: torch.Tensor, current: int, temperature: float) -> torch.Tensor:
    """InfoNCE of rows that belong together among all rows: mean of the first ``current`` plus mean of the others, a scalar.

    queries, keys: unit vectors [M, D], row i of one belongs to row i of the other; keys get no gradient. Fang et al. 2021
    (CMI), eq. 8; with nothing beyond ``current`` (an empty bank) the second mean is left out.
    """
    logits = queries.float() @ keys.detach().float().T / temperature
    each = F.cross_entropy(logits, torch.arange(len(queries), device=queries.device), reduction="none")
    found = each[:current].mean()
    return found if current == len(each) else found + each[current:].mean()


def suspicious(teacher: torch.Tensor, shuffled: torch.Tensor) -> torch.Tensor:
    """Whether the shuffled teacher still names the teacher's class, bool [N]: φ of Hong et al. 2023 (ABD)."""
    return teacher.argmax(1) == shuffled.argmax(1)


def vaccine_term(teacher: torch.Tensor, shuffled: torch.Tensor, weight: float, most: float) -> torch.Tensor:
    """−weight · mean over suspicious images of min(KL(teacher ‖ shuffled), most); 0 where none is; a scalar.

    logits [N, K]; gradients go through both, not through the mask. Hong et al. 2023, section 4.1, as in their code divided
    by the number of suspicious images. Ours: summed over classes, like the generator's own loss; held at ``most`` nats, as
    nothing else bounds it.
    """
    mask = suspicious(teacher, shuffled).float()
    held = kl_each(teacher, shuffled).clamp_max(most)
    return -weight * (mask * held).sum() / mask.sum().clamp_min(1)


def log_distance(teacher: torch.Tensor, shuffled: torch.Tensor) -> torch.Tensor:
    """log10(KL(teacher ‖ shuffled) / K), float64 [N], low = suspicious; logits [N, K]."""
    each = kl_each(teacher, shuffled).double() / teacher.shape[1]
    return each.clamp_min(LEAST).log10()


def lower_tail(values: torch.Tensor, rule: TailRule, deviations: float) -> float:
    """Share of ``values`` [N] more than ``deviations`` standard deviations below the middle.

    mean: mean and standard deviation, as Hong et al. have it, which more than a tenth of suspicious images hides from
    itself. mad: median and 1.4826 · median absolute deviation. Of a Gaussian 0.13 % lie below three.
    """
    if rule == "mean":
        middle, spread = float(values.mean()), float(values.std(correction=0))
    else:
        middle = float(values.median())
        spread = MAD * float((values - middle).abs().median())
    if not math.isfinite(middle):
        raise EdgekdError(
            "The teacher, or its shuffled twin, answers some images with numbers that are not finite, so no "
            "vaccine can be searched for. Check the teacher's weights, or switch the vaccine off: -o "
            "abd.vaccine=false."
        )
    return float((values < middle - deviations * spread).double().mean())
