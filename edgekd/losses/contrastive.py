"""Losses that tell one pair of embeddings from many others."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def noise_contrastive(
    positive: torch.Tensor, negatives: torch.Tensor, weights: torch.Tensor, level: torch.Tensor
) -> torch.Tensor:
    """-log h(positive) - Σ_k w_k · log(1 - h(negative_k)), h(s) = e^s / (e^s + e^level), mean over images.

    positive [N] and negatives [N, K]: similarities divided by their temperature; weights [N, K]: how often each negative
    counts; level: log of the noise, a scalar. A scalar float32. Tian et al. 2020 (CRD), with level =
    log(K · Z / M): Z / M is the mean of e^s over the M images.
    """
    level = level.float()
    found = F.softplus(level - positive.float())
    return (found + (weights * F.softplus(negatives.float() - level)).sum(1)).mean()
