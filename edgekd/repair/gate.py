"""The channel gate, our own: scales channels down and shifts them until perturbations no longer fool the network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from torch.func import functional_call

from ..models import Network
from ..perturb.universal import SignedAscent, universal
from ..training import Context, Settings, TrainConfig
from ..training.chunks import Chunks
from ..training.method import Accuracy, BatchSource
from .base import Repair, cross_entropy
from .norms import batch_norms

if TYPE_CHECKING:
    from ..data import Batch

CHUNK = 50  # steps between two checkpoints
SEARCHED = 64  # images per step of the search


class ChannelGateSettings(Settings):
    steps: int = Field(
        400, ge=1, description="Adam steps on the gates, rounded up to a multiple of 50; instead of train.epochs"
    )
    lr: float = Field(0.01, gt=0, description="peak learning rate of Adam on the gates; instead of train.lr")
    bound: float = Field(0.05, gt=0, le=1, description="largest change of a pixel by a perturbation, in [0, 1]")
    weight: float = Field(0.5, ge=0, description="weight of cross-entropy on perturbed images")
    keep: float = Field(1.0, ge=0, description="weight of the distance to the teacher's outputs without gates")
    search_steps: int = Field(30, ge=1, description="steps that find each class's perturbation before training")
    ascent: float = Field(
        0.01, ge=0, description="how much a perturbation changes per step, to keep fooling the network"
    )


class GatedNetwork(nn.Module):
    """A frozen network whose batch norms' outputs y become g ⊙ y + b, per channel; g in [0, 1] starts at 1, b at 0."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        norms = batch_norms(network)
        self.names = tuple(norms)
        self.gates = nn.ParameterList(torch.ones_like(norm.weight) for norm in norms.values())
        self.shifts = nn.ParameterList(torch.zeros_like(norm.bias) for norm in norms.values())

    def train(self, mode: bool = True) -> GatedNetwork:
        """The network stays in eval mode: its running statistics are the task's."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = functional_call(self.network, self.folded(), (images,))
        return logits

    def folded(self) -> dict[str, torch.Tensor]:
        """The gates as scales and shifts of the norms, by parameter's name."""
        changed: dict[str, torch.Tensor] = {}
        for name, gate, shift in zip(self.names, self.gates, self.shifts, strict=True):
            norm: Any = self.network.get_submodule(name)
            changed |= {f"{name}.weight": gate * norm.weight, f"{name}.bias": gate * norm.bias + shift}
        return changed


class ChannelGate(Repair):
    """min_{g,b} CE(T'(x), y) + weight · max_δ CE(T'(x + δ_k), y) + keep · KL(T(x) ‖ T'(x)), one δ_k per class, universal.

    The δ_k, within ±bound, are found on the teacher so that images look like class k, and then climb the loss. The gates
    are folded into the norms in the end, so what comes out is an ordinary network.

    Its defaults are those at which a trial's noise blend lost its ASR, and they are sensitive: twice the bound costs ten
    points more accuracy. There is no rule yet that finds them without a trigger.

    Ours: the card gates the features of the distilled layers, we every batch norm, the only place where it costs nothing
    on the board; it re-estimates δ every few steps, we move it in every step.
    """

    Config = ChannelGateSettings
    needs = "batch norms"

    def begin(self, network: Network) -> nn.Module:
        return GatedNetwork(network)

    def length(self, train: TrainConfig, batches: BatchSource) -> tuple[TrainConfig, BatchSource]:
        chunk = min(CHUNK, self.config.steps)
        epochs = math.ceil(self.config.steps / chunk)
        return train.model_copy(update={"epochs": epochs, "lr": self.config.lr}), Chunks(batches, chunk)

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        every = chain.from_iterable(context.batches.epoch(number) for number in count())
        images = [batch.images[:SEARCHED].float() for batch in islice(every, self.config.search_steps)]
        raw = self.student.network
        with torch.no_grad():
            classes = raw(images[0][:1]).shape[1]
        found = [universal(raw, images, k, bound=self.config.bound) for k in range(classes)]
        self.perturbations = nn.ParameterList(nn.Parameter(each) for each in found)

    def modules(self) -> tuple[nn.Module, ...]:
        return (self.perturbations,)

    def optimizer(self, parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=config.lr)

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return (SignedAscent(list(self.perturbations), self.config.ascent, self.config.bound),)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        images = batch.images
        which = torch.randint(len(self.perturbations), (len(images),), device=images.device)
        changed = (images.float() + torch.stack(list(self.perturbations))[which]).clamp(0, 1)
        with torch.no_grad():
            raw = self.student.network(images).float()
        logits, fooled = self.student(torch.cat([images, changed.to(images.dtype)])).float().chunk(2)
        return {
            "ce": cross_entropy(logits, batch.labels),
            "perturbed": self.config.weight * cross_entropy(fooled, batch.labels),
            "kept": self.config.keep
            * F.kl_div(logits.log_softmax(1), raw.log_softmax(1), log_target=True, reduction="batchmean"),
        }

    def update(self, step: Callable[[], None]) -> None:
        step()
        with torch.no_grad():
            for gate in self.student.gates:
                gate.clamp_(0, 1)

    def finish(self, student: Any, accuracy: Accuracy | None) -> tuple[Network, dict[str, Any]]:
        """Fold the gates; says their mean and how many are shut."""
        gates = torch.cat([gate.detach() for gate in student.gates])
        network = copy.deepcopy(student.network)
        network.load_state_dict({k: v.detach() for k, v in student.folded().items()}, strict=False)
        return network, {"gates": float(gates.mean()), "shut": int((gates == 0).sum()), "channels": gates.numel()}
