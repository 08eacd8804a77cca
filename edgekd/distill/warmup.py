"""A teacher's terms that rise to their weight over the first epochs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..training import Settings

LENGTH, OF = 20, 240  # epochs, in the schedule for CIFAR-100 that DKD and ReviewKD were published with


class WarmupSettings(Settings):
    warmup_epochs: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="epochs in which the weight of the teacher's terms rises linearly; auto: the 20 that the paper has of "
        "240, in shorter runs a twelfth of them",
    )

    def warmup(self, epochs: int) -> float:
        """Length of the rise in a run of ``epochs``."""
        return min(LENGTH, epochs * LENGTH / OF) if self.warmup_epochs == "auto" else self.warmup_epochs

    def share(self, epoch: int, epochs: int) -> float:
        """Of the full weight in epoch ``epoch``, counted from 0, of ``epochs``."""
        return min(1.0, (epoch + 1) / max(self.warmup(epochs), 1.0))
