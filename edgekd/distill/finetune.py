"""The control: the teacher itself, trained further on clean labels at a small learning rate."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ..training import Settings
from .scratch import Scratch


class FineTuningSettings(Settings):
    lr: float = Field(0.01, gt=0, description="peak learning rate, instead of train.lr")


class FineTuning(Scratch):
    """Plain fine-tuning: the student starts as a copy of the teacher, the loss is cross-entropy."""

    Config: ClassVar[type[Settings]] = FineTuningSettings
    needs = "weights"
