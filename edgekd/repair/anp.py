"""ANP (Wu and Wang, NeurIPS 2021, arXiv 2110.14430): prunes the channels that break first under noise on their weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.func import functional_call

from ..models import Network
from ..training import Settings, TrainConfig
from ..training.chunks import Chunks
from ..training.method import Accuracy, BatchSource
from .base import Repair, cross_entropy
from .norms import batch_norms, still_norms

if TYPE_CHECKING:
    from ..data import Batch

STEP = 0.05  # between two thresholds that are tried
CHUNK = 50  # steps between two checkpoints
Noise = Sequence[torch.Tensor]  # δ of every norm, then ξ of every norm


class NeuronPruningSettings(Settings):
    steps: int = Field(
        700, ge=1, description="SGD steps on the masks, rounded up to a multiple of 50; instead of train.epochs"
    )
    lr: float = Field(0.2, gt=0, description="peak learning rate of SGD on the masks; instead of train.lr")
    epsilon: float = Field(0.4, ge=0, description="bound of the noise, as a share of scale and shift")
    alpha: float = Field(0.2, ge=0, le=1, description="weight of the loss without noise; the noisy loss has 1 - alpha")
    threshold: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = Field(
        "auto",
        description="channels with a smaller mask are pruned; auto: the highest threshold that keeps validation accuracy",
    )
    max_drop: float = Field(
        0.05, ge=0, le=1, description="validation accuracy that pruning may cost, with threshold=auto"
    )


class MaskedNetwork(nn.Module):
    """A frozen network whose batch norms' scales are multiplied by masks [C] in [0, 1], which start at 1."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.names = tuple(batch_norms(network))
        self.masks = nn.ParameterList(torch.ones_like(norm.weight) for norm in batch_norms(network).values())

    def forward(self, images: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        """Logits with scale (m + δ) ⊙ w and shift (1 + ξ) ⊙ b."""
        changed: dict[str, torch.Tensor] = {}
        count = len(self.names)
        for index, name in enumerate(self.names):
            norm: Any = self.network.get_submodule(name)
            mask, shift = self.masks[index], norm.bias
            if noise is not None:
                mask, shift = mask + noise[index], (1 + noise[count + index]) * shift
            changed |= {f"{name}.weight": mask * norm.weight, f"{name}.bias": shift}
        logits: torch.Tensor = functional_call(self.network, changed, (images,))
        return logits


class NeuronPruning(Repair):
    """min_m alpha · CE(m ⊙ w, b) + (1 − alpha) · max CE((m + δ) ⊙ w, (1 + ξ) ⊙ b), |δ|, |ξ| <= epsilon; then pruning.

    The maximum is one signed step of length epsilon from a random start, cut to the bound. Passes normalise by the batch
    and leave the running statistics, with which the pruned network runs, as they were. Pruned is a channel whose mask is
    below the threshold: its scale becomes 0, its shift stays, as the formula has it. With ``auto`` thresholds are tried
    from 0.05 on, in steps of 0.05, until validation accuracy falls by more than max_drop, about what the benchmark pays.

    700 steps instead of 2,000, for a WRN-16-1 in under three minutes on one core; the rate falls with train.schedule.
    """

    Config = NeuronPruningSettings
    needs = "batch norms"

    @property
    def wants_accuracy(self) -> bool:
        return bool(self.config.threshold == "auto")

    def begin(self, network: Network) -> nn.Module:
        return MaskedNetwork(network)

    def length(self, train: TrainConfig, batches: BatchSource) -> tuple[TrainConfig, BatchSource]:
        chunk = min(CHUNK, self.config.steps)
        epochs = math.ceil(self.config.steps / chunk)
        return train.model_copy(update={"epochs": epochs, "lr": self.config.lr}), Chunks(batches, chunk)

    def optimizer(self, parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum)  # decay would prune by itself

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        with still_norms(self.student):
            noise = self._worst(batch)
            alpha = self.config.alpha
            return {
                "ce": alpha * cross_entropy(self.student(batch.images), batch.labels),
                "noisy": (1 - alpha) * cross_entropy(self.student(batch.images, noise), batch.labels),
            }

    def _worst(self, batch: Batch) -> list[torch.Tensor]:
        bound = self.config.epsilon
        noise = [((2 * torch.rand_like(m) - 1) * bound).requires_grad_(True) for _ in "wb" for m in self.student.masks]
        loss = cross_entropy(self.student(batch.images, noise), batch.labels)
        slopes = torch.autograd.grad(loss, noise)
        return [(n + bound * s.sign()).clamp(-bound, bound).detach() for n, s in zip(noise, slopes, strict=True)]

    def update(self, step: Callable[[], None]) -> None:
        step()
        with torch.no_grad():
            for mask in self.student.masks:
                mask.clamp_(0, 1)

    def finish(self, student: Any, accuracy: Accuracy | None) -> tuple[Network, dict[str, Any]]:
        """Prune; says threshold, channels pruned and in all, and accuracies where it was chosen."""
        masks = {name: mask.detach() for name, mask in zip(student.names, student.masks, strict=True)}
        figures: dict[str, float] = {}
        threshold = self.config.threshold
        if threshold == "auto":
            assert accuracy is not None  # run() refuses
            threshold, figures = best_threshold(student.network, masks, accuracy, self.config.max_drop)
        return pruned(student.network, masks, threshold), {
            "threshold": threshold,
            "pruned": sum(int((mask < threshold).sum()) for mask in masks.values()),
            "channels": sum(mask.numel() for mask in masks.values()),
            **figures,
        }


def best_threshold(
    network: Network, masks: dict[str, torch.Tensor], accuracy: Accuracy, max_drop: float
) -> tuple[float, dict[str, float]]:
    """The last threshold before the first that costs more than ``max_drop``, 0 if that is the first; accuracies."""
    raw = kept = accuracy(network)
    best = 0.0
    for number in range(1, round(1 / STEP)):
        threshold = round(number * STEP, 2)
        reached = accuracy(pruned(network, masks, threshold))
        if reached < raw - max_drop:
            break
        best, kept = threshold, reached
    return best, {"acc_raw": raw, "acc": kept}


@torch.no_grad()
def pruned(network: Network, masks: dict[str, torch.Tensor], threshold: float) -> Network:
    """A copy in which the scale of every channel with a mask [C] below the threshold is 0. masks: by the norm's name."""
    network = copy.deepcopy(network)
    for name, mask in masks.items():
        norm: Any = network.get_submodule(name)
        norm.weight.masked_fill_(mask < threshold, 0.0)
    return network
