"""Plain fine-tuning: the zero-effort control for every other repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .base import Repair, TunedSettings, cross_entropy

if TYPE_CHECKING:
    from ..data import Batch


class FineTuning(Repair):
    """Cross-entropy on the clean images, SGD at 0.01, with the augmentation, momentum and decay of ``train``.

    40 epochs instead of the benchmark's 100: on 2,500 images a WRN-16-1 then takes a minute or two on one core. A high
    rate is itself a defence and a low one makes all others look good, so a comparison shows 0.03 beside 0.01.
    """

    Config = TunedSettings

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"ce": cross_entropy(self.student(batch.images), batch.labels)}
