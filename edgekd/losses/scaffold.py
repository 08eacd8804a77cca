"""DiSK's losses: a helper lends the student probability where the teacher is plausible, and pays for it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

LEAST = 1e-8  # probability below which a logarithm is cut


def scaffolded_cross_entropy(
    student: torch.Tensor,
    teacher: torch.Tensor,
    helper: torch.Tensor,
    labels: torch.Tensor,
    *,
    top_k: int,
    student_temperature: float,
    teacher_temperature: float,
) -> torch.Tensor:
    """τ_S·τ_T · mean_i -Σ_k t_k log(softmax(student / τ_S)_k + g·m_k), t = softmax(teacher / τ_T)·m; scalar float32.

    student, teacher: logits [N, K]; helper: g in [0, 1], [N]; labels [N]. m: 1 for the teacher's top_k classes and the
    label, else 0. Neither s + g nor t is normalised again. No gradient reaches teacher. Kag et al. 2023, after the
    published code, which adds g to the classes of m alone; the paper adds it to all.
    """
    kept = plausible(teacher, labels, top_k)
    target = F.softmax(teacher.detach().float() / teacher_temperature, dim=1) * kept
    lent = F.softmax(student.float() / student_temperature, dim=1) + helper.float()[:, None] * kept
    cross_entropy = -(target * lent.clamp_min(LEAST).log()).sum(dim=1).mean()
    return student_temperature * teacher_temperature * cross_entropy


def plausible(teacher: torch.Tensor, labels: torch.Tensor, top_k: int) -> torch.Tensor:
    """1 for the top_k classes of logits [N, K] and for the labels [N], else 0: float32 [N, K]."""
    kept = torch.zeros(teacher.shape, device=teacher.device)
    kept.scatter_(1, teacher.topk(min(top_k, teacher.shape[1]), dim=1).indices, 1.0)
    return kept.scatter_(1, labels[:, None], 1.0)


def capped_cross_entropy(student: torch.Tensor, teacher: torch.Tensor, most: float) -> torch.Tensor:
    """What the helper is charged per image: cross-entropy to the teacher's class, ``most`` at most; [N] float32."""
    return F.cross_entropy(student.float(), teacher.argmax(dim=1), reduction="none").clamp_max(most)


def budget_excess(helper: torch.Tensor, charge: torch.Tensor, wrong: torch.Tensor, budget: float) -> torch.Tensor:
    """max(0, Σ_i g_i·charge_i / n_wrong - budget), n_wrong at least 1; a scalar float32.

    helper, charge: [N]; wrong: bool [N], the images that the student gets wrong. Kag et al. 2023, after the published
    code (penalty 24), which divides by the misclassified images, not by all.
    """
    spent = (helper.float() * charge.detach()).sum() / wrong.sum().clamp_min(1)
    return (spent - budget).clamp_min(0)
