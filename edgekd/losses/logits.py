"""Losses on logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def soft_target_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over images, in nats; a scalar float32.

    student, teacher: logits [N, K]. Raises ValueError where the shapes differ or the temperature is not positive.
    Hinton et al. 2015, section 2; T² keeps the gradient's size, the sum runs over classes ("batchmean").
    """
    if student.shape != teacher.shape or student.dim() != 2:
        raise ValueError(f"logits {tuple(student.shape)} and {tuple(teacher.shape)} are not two [N, K] of one shape")
    if temperature <= 0:
        raise ValueError(f"a temperature of {temperature} is not positive")
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2
