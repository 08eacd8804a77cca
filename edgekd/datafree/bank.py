"""What contrastive inversion looks at and remembers: inputs of the teacher's batch norms, a ring of features, a projection."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

PROJECTED = 256


class Watched:
    """A network that also tells what its batch norms were given."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.norms = [
            part for part in network.modules() if isinstance(part, nn.BatchNorm2d) and part.track_running_stats
        ]
        self.width = sum(norm.num_features for norm in self.norms)

    @property
    def running(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Mean and variance [C] that each norm learned."""
        return [(norm.get_buffer("running_mean"), norm.get_buffer("running_var")) for norm in self.norms]

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits [N, K], and per norm its input [N, C, H, W]; FP32, gradients through all of it."""
        inputs: dict[nn.Module, torch.Tensor] = {}

        def keep(norm: nn.Module, given: tuple[Any, ...]) -> None:
            inputs[norm] = given[0]

        hooks = [norm.register_forward_pre_hook(keep) for norm in self.norms]
        try:
            with torch.autocast(images.device.type, enabled=False):
                logits = self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        return logits, [inputs[norm] for norm in self.norms]

    def pooled(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Features [N, D] of an image: the spatial mean of every norm's input, side by side."""
        return torch.cat([part.mean((2, 3)) for part in inputs], 1)


class Bank(nn.Module):
    """A ring of feature pairs of images made before; the oldest are overwritten."""

    rows: torch.Tensor
    written: torch.Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, 2, width))
        self.register_buffer("written", torch.tensor(0))

    @torch.no_grad()
    def add(self, local: torch.Tensor, wide: torch.Tensor) -> None:
        """Keep the pairs [N, D] and [N, D]."""
        size, start = len(self.rows), int(self.written)
        pairs = torch.stack([local, wide], 1)[-size:]
        where = (start + torch.arange(len(pairs), device=pairs.device)) % size
        self.rows[where] = pairs
        self.written += len(pairs)

    def sample(self, count: int, draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Up to ``count`` different pairs, [M, D] each; none while the bank is empty."""
        held = min(int(self.written), len(self.rows))
        order = torch.randperm(held, generator=draws)[:count].to(self.rows.device)
        return self.rows[order, 0], self.rows[order, 1]


class Head(nn.Module):
    """Features [N, D] to unit vectors [N, 256], by two linear layers."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.path = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTED))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.path(features), dim=1)
