"""What every repair shares: frozen settings, a network that is trained, a last step after training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ..training import Context, Method, Settings, TrainConfig
from ..training.method import Accuracy, BatchSource
from ..types import ModelSpec

if TYPE_CHECKING:
    from ..models import Network


class TunedSettings(Settings):
    """Of a repair that trains for epochs at a rate of its own."""

    epochs: int = Field(40, ge=1, le=100_000, description="passes over the clean images, instead of train.epochs")
    lr: float = Field(0.01, gt=0, description="peak learning rate, instead of train.lr")


class Repair(Method):
    """A change of a network's weights that is to cost a backdoor more than the task; it sees clean images only.

    ``begin`` says what is trained of the copy it gets, ``finish`` returns the repaired network; a repair that needs no
    training does everything in ``finish``.
    """

    Config: ClassVar[type[Settings]] = Settings
    needs: ClassVar[Literal["weights", "batch norms", "norms of convolutions"]] = "weights"
    trains: ClassVar[bool] = True

    student: Any  # what is trained: float images -> logits

    def __init__(self, config: Any, spec: ModelSpec) -> None:
        self.config, self.spec = config, spec

    @property
    def wants_accuracy(self) -> bool:
        """Whether these settings leave something to be chosen on validation images."""
        return False

    def begin(self, network: Network) -> nn.Module:
        """What is trained, made of a copy of the teacher; by default that copy."""
        return network

    def length(self, train: TrainConfig, batches: BatchSource) -> tuple[TrainConfig, BatchSource]:
        """How long and at which rate this repair trains."""
        return train.model_copy(update={"epochs": self.config.epochs, "lr": self.config.lr}), batches

    def prepare(self, context: Context) -> None:
        self.student = context.student

    def finish(self, student: Any, accuracy: Accuracy | None) -> tuple[Network, dict[str, Any]]:
        """The repaired network, from what was trained and is in eval mode, and what is to be said of this last step.

        Must be deterministic: it is done again for a run that was over when it was found.
        """
        return student, {}


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in float32: logits [N, K], labels [N]."""
    return F.cross_entropy(logits.float(), labels)
