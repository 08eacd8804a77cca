"""Losses on logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def soft_target_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over images, in nats; a scalar float32.

    student, teacher: logits [N, K]. Raises ValueError where the shapes differ or the temperature is not positive.
    Hinton et al. 2015, section 2; T² keeps the gradient's size, the sum runs over classes ("batchmean").
    """
    _refuse_misfits(student, teacher, temperature)
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def decoupled_kl(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """T² · KL of (label's class, all others), and T² · KL among the others alone; per image, both float32 [N], in nats.

    student, teacher: logits [N, K], K >= 2; labels: int64 [N]. Raises ValueError as ``soft_target_kl``. Zhao et al. 2022
    (DKD): KL = first + (1 - p_T,label) · second. The others are gathered, where the published code pushes the label's
    logit down by 1000.
    """
    _refuse_misfits(student, teacher, temperature)
    if student.shape[1] < 2:
        raise ValueError("one class has no others")
    others = torch.arange(student.shape[1] - 1, device=labels.device)
    others = others + (others >= labels[:, None])
    split = []
    for logits in (student.float() / temperature, teacher.float() / temperature):
        rest = logits.gather(1, others)
        two = torch.cat([logits.gather(1, labels[:, None]), rest.logsumexp(1, keepdim=True)], 1)
        split.append((F.log_softmax(two, 1), F.log_softmax(rest, 1)))
    first, second = (
        F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1) * temperature**2
        for ours, theirs in zip(*split, strict=True)
    )
    return first, second


def _refuse_misfits(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> None:
    if student.shape != teacher.shape or student.dim() != 2:
        raise ValueError(f"logits {tuple(student.shape)} and {tuple(teacher.shape)} are not two [N, K] of one shape")
    if temperature <= 0:
        raise ValueError(f"a temperature of {temperature} is not positive")
