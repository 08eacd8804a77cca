"""What every distillation method shares: frozen settings, a frozen teacher, the student's cross-entropy."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..training import Context, Method, Settings

Needs = Literal["nothing", "logits", "gradients", "sites", "weights"]


class Distiller(Method):
    """A method that trains a student, mostly with a teacher.

    needs: what of the teacher is used. ``logits``: any network; ``gradients``: its logits
    and how they change with an image, which an ONNX graph cannot tell; ``sites``: the features of models.wrap.Network;
    ``weights``: the student is a copy of it.
    """

    Config: ClassVar[type[Settings]] = Settings
    needs: ClassVar[Needs] = "nothing"
    true_labels: ClassVar[bool] = False  # whether the teacher's own answers cannot stand in for the labels
    every_image: ClassVar[bool] = False  # whether it asks for all images, or counts them, before it begins

    student: Any  # models.wrap.Network or any network of pixels -> logits

    def __init__(self, config: Any, teacher: Any = None) -> None:
        self.config = config
        self.teacher = teacher  # eval mode, no gradients wanted of its weights

    @classmethod
    def kept_bytes(cls, config: Any, images: int) -> int:
        """What stays in memory and in checkpoints for so many training images; for forecasts."""
        return 0

    def prepare(self, context: Context) -> None:
        self.student, self.epochs = context.student, context.config.epochs


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in float32: logits [N, K], labels [N]."""
    return F.cross_entropy(logits.float(), labels)


def freeze(module: nn.Module) -> None:
    """Eval mode and no gradients for the weights; gradients still pass through to the features."""
    module.eval().requires_grad_(False)
