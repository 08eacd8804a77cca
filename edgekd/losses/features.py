"""Losses on features: margins, partial L2, distances of maps and of what they say about each other, variance."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F

# A direction is divided by its length, or by this: a dead channel has no direction, and no gradient may explode there.
TINY = 1e-6

VarianceMode = Literal["map", "channel", "sample"]


def gaussian_margin(gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """E[z | z < 0] of z ~ N(beta, gamma²), and -3·|gamma| where z < 0 is rarer than 1 in 1000.

    gamma, beta: scale and shift [C] of a batch-norm; the result is [C], negative. Heo et al. 2019 (overhaul), eq. 4;
    it describes batch-normalised features, so not those of a network in eval mode on other data.
    """
    scale, shift = gamma.double().abs(), beta.double()
    ratio = shift / scale.clamp_min(torch.finfo(torch.float64).tiny)
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    below_zero = 0.5 * torch.erfc(ratio / math.sqrt(2))
    rare = below_zero <= 1e-3
    expected = shift - scale * density / below_zero.masked_fill(rare, 1.0)
    return torch.where(rare, -3 * scale, expected).to(gamma.dtype)


def margin_relu(feature: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
    """max(feature, margin), one margin per channel: feature [N, C, ...], margin [C]. Heo et al. 2019, eq. 2."""
    return torch.maximum(feature, margin.view(-1, *[1] * (feature.dim() - 2)))


def partial_l2(target: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Sum over elements of (target - student)², but 0 where student <= target <= 0; a scalar float32.

    target, student: one shape; divide by the batch for the loss of Heo et al. 2019, eq. 5. No gradient reaches target.
    Raises ValueError where the shapes differ, instead of broadcasting.
    """
    if target.shape != student.shape:
        raise ValueError(f"a target {tuple(target.shape)} and a student {tuple(student.shape)} of different shapes")
    target = target.detach().float()
    # Where target <= 0 only an excess counts: the difference is cut at 0 from below.
    floor = torch.zeros_like(target).masked_fill_(target > 0, -math.inf)
    return torch.maximum(student.float() - target, floor).square().sum()


def attention_distance(target: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Mean of (Q_T - Q_S)², Q the mean over channels of F², flattened to one vector per image of length 1.

    target [N, C, H, W], student [N, D, H, W]; a scalar float32. No gradient reaches target. Zagoruyko and Komodakis 2017,
    eq. 2, with the mean over elements of the CRD benchmark. Raises ValueError where the maps' sizes differ.
    """
    _refuse_other_sizes(target, student)
    maps = [F.normalize(f.float().square().mean(dim=1).flatten(1), dim=1) for f in (target.detach(), student)]
    return (maps[0] - maps[1]).square().mean()


def selectivity_distance(target: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Squared MMD, under the kernel (a·b)², of the channels of two features, each a direction in space; mean over images.

    target [N, C, H, W], student [N, D, H, W]; a scalar float32. No gradient reaches target. Huang and Wang 2017
    (NST), polynomial kernel. Raises ValueError where the maps' sizes differ.
    """
    _refuse_other_sizes(target, student)
    t, s = (F.normalize(f.float().flatten(2), dim=2, eps=TINY) for f in (target.detach(), student))
    channels, width, positions = t.shape[1], s.shape[1], t.shape[2]
    with torch.autocast(s.device.type, enabled=False):
        if positions**2 <= channels**2 + width**2 + channels * width:
            # the same by positions: both means of k are squares of one matrix, so nothing of H·W cancels
            return (t.mT @ t / channels - s.mT @ s / width).square().sum((1, 2)).mean()
        within = (t @ t.mT).square().mean() + (s @ s.mT).square().mean()
        return within - 2 * (t @ s.mT).square().mean()


def similarity_distance(target: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """||G_T - G_S||² / N², G the inner products of the N images' features, each row of length 1; a scalar float32.

    target [N, ...], student [N, ...], of any sizes. No gradient reaches target. Tung and Mori 2019 (SP). Raises
    ValueError for another number of images.
    """
    if len(target) != len(student):
        raise ValueError(f"features of {len(target)} and of {len(student)} images")
    flat = [f.float().flatten(1) for f in (target.detach(), student)]
    with torch.autocast(student.device.type, enabled=False):
        t, s = (F.normalize(f @ f.T, dim=1, eps=TINY) for f in flat)
    return (t - s).square().mean()


def hierarchical_context(target: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Mean of (target - student)² over the maps and over both averaged to 4 x 4, 2 x 2, 1 x 1, weights 1, ½, ¼, ⅛.

    target, student: [N, C, H, W] of one shape; a scalar float32, divided by the sum of the weights. Grids that are no
    coarser than the map are left out, the next ones move up. No gradient reaches target. Chen et al. 2021 (ReviewKD),
    HCL. Raises ValueError where the shapes differ.
    """
    if target.shape != student.shape:
        raise ValueError(f"a target {tuple(target.shape)} and a student {tuple(student.shape)} of different shapes")
    target, student = target.detach().float(), student.float()
    height, width = target.shape[2:]
    grids = [grid for grid in ((min(n, height), min(n, width)) for n in (4, 2, 1)) if grid != (height, width)]
    pairs = [(target, student)]
    pairs += [(F.adaptive_avg_pool2d(target, grid), F.adaptive_avg_pool2d(student, grid)) for grid in grids]
    weights = [0.5**level for level in range(len(pairs))]
    terms = [weight * F.mse_loss(s, t) for weight, (t, s) in zip(weights, pairs, strict=True)]
    return torch.stack(terms).sum() / sum(weights)


def feature_variance(feature: torch.Tensor, mode: VarianceMode = "map") -> torch.Tensor:
    """Population variance of a feature [N, C, ...]; a scalar float32.

    ``map``: over all elements of one image, mean over images. ``channel``: over channels of their spatial means, mean
    over images. ``sample``: over the images of the batch, mean over elements; adding a constant to the feature leaves
    this one as it is. RobustKD's L_f is not published; these are the readings of the method card, 2.1 (3).
    """
    feature = feature.float().flatten(2) if feature.dim() > 2 else feature.float().unsqueeze(2)
    if mode == "map":
        return feature.flatten(1).var(dim=1, correction=0).mean()
    if mode == "channel":
        return feature.mean(dim=2).var(dim=1, correction=0).mean()
    if mode == "sample":
        return feature.var(dim=0, correction=0).mean()
    raise ValueError(f"no variance mode {mode!r}; there are map, channel and sample")


def _refuse_other_sizes(target: torch.Tensor, student: torch.Tensor) -> None:
    if target.shape[0] != student.shape[0] or target.shape[2:] != student.shape[2:]:
        raise ValueError(f"maps {tuple(target.shape)} and {tuple(student.shape)} of different sizes")
