"""What attacks climb: one value per image, from its logits and its label, that is large where the network errs."""

from __future__ import annotations

import torch
import torch.nn.functional as F

TINY = 1e-12


def cross_entropy_each(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every image, [N] float32: logits [N, K], labels [N] int64."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """max_{j ≠ y} z_j - z_y of every image, [N] float32: logits [N, K], labels [N] int64; above 0 where it errs.

    Carlini and Wagner 2017, f_6 with the sign turned and without a floor. Raises ValueError for a single class.
    """
    _refuse_few(logits, 2)
    logits = logits.float()
    others = logits.masked_fill(F.one_hot(labels, logits.shape[1]).bool(), -torch.inf)
    return others.amax(1) - _of(logits, labels)


def dlr(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Difference of logits ratio, -(z_y - max_{j ≠ y} z_j) / (z_(1) - z_(3)), [N] float32; z_(i): the i-th largest.

    logits [N, K], labels [N] int64. Neither scale nor shift of the logits matters. Croce and Hein 2020, eq. 6. Raises
    ValueError for fewer than three classes.
    """
    _refuse_few(logits, 3)
    largest = logits.float().topk(3, dim=1).values
    return margin(logits, labels) / (largest[:, 0] - largest[:, 2] + TINY)


def dlr_targeted(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), [N] float32: logits [N, K], labels and targets [N] int64.

    Croce and Hein 2020, eq. 7. Raises ValueError for fewer than four classes.
    """
    _refuse_few(logits, 4)
    largest = logits.float().topk(4, dim=1).values
    spread = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2
    return margin_targeted(logits, labels, targets) / (spread + TINY)


def margin_targeted(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """z_t - z_y of every image, [N] float32: logits [N, K], labels and targets [N] int64."""
    logits = logits.float()
    return _of(logits, targets) - _of(logits, labels)


def _of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, labels[:, None])[:, 0]


def _refuse_few(logits: torch.Tensor, classes: int) -> None:
    if logits.dim() != 2 or logits.shape[1] < classes:
        raise ValueError(f"logits {tuple(logits.shape)} are not [N, K] of at least {classes} classes")
