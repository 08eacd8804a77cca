"""The batch norms of a network: which there are, which convolution each one scales, and passes that leave them be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models import Network


def batch_norms(network: nn.Module) -> dict[str, Any]:
    """Batch norms with a scale and a shift, by name."""
    return {
        name: part
        for name, part in network.named_modules()
        if isinstance(part, _BatchNorm) and part.affine and part.running_var is not None
    }


@torch.no_grad()
def scaled_convolutions(network: Network, shape: tuple[int, int, int]) -> dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Name of a batch norm -> the convolution whose output it is given, and the norm; in the order of the network.

    Found on one grey image [C, H, W] rather than by the order of the modules: in a pre-activation network a norm mostly
    follows a sum, which no single convolution explains, and such a norm is left out. The network is in eval mode.
    """
    names = {norm: name for name, norm in batch_norms(network).items()}
    made: list[tuple[torch.Tensor, nn.Conv2d]] = []  # holds the tensors, so that no other takes a dead one's place
    found: dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]] = {}

    def note(convolution: Any, _: Any, output: torch.Tensor) -> None:
        made.append((output, convolution))

    def match(norm: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        for output, convolution in made:
            if output is inputs[0]:
                found[names[norm]] = (convolution, norm)

    hooks = [part.register_forward_hook(note) for part in network.modules() if isinstance(part, nn.Conv2d)]
    hooks += [norm.register_forward_pre_hook(match) for norm in names]
    try:
        device = next(network.parameters()).device
        network(torch.full((1, *shape), 0.5, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextlib.contextmanager
def still_norms(network: nn.Module) -> Iterator[None]:
    """Passes in training mode that normalise by the batch but leave every running statistic as it is."""
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
