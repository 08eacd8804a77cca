"""The control: a student trained on the same images and true labels, without a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .base import Distiller, cross_entropy

if TYPE_CHECKING:
    from ..data import Batch


class Scratch(Distiller):
    """Cross-entropy on the labels; gives the accuracy without a teacher and the floor of every ASR."""

    true_labels = True

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"ce": cross_entropy(self.student(batch.images), batch.labels)}
