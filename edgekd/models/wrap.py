"""What every model is made of: normalise, then the network. Images are float [B, C, H, W] in [0, 1]."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..types import InputSpec
from .found_sites import FoundSites
from .sites import Edit, Norms, Recorder, Sites, TappedNet


class Normalize(nn.Module):
    """(x - mean) / std per channel. The statistics belong to the spec, not the weights: no state dict holds them."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.trivial = all(value == 0 for value in mean) and all(value == 1 for value in std)

    def forward(self, images: Tensor) -> Tensor:
        return images if self.trivial else (images - self.mean) / self.std


class Network(nn.Module):
    """A network that takes pixels: images [B, C, H, W] in [0, 1] in, logits [B, K] out."""

    def __init__(self, net: nn.Module, inputs: InputSpec) -> None:
        super().__init__()
        self.normalize = Normalize(inputs.mean, inputs.std)
        self.net = net
        self._found = None if offers_sites(net) else FoundSites(inputs.shape)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(self.normalize(images))
        return logits

    def sites(self, images: Tensor, edit: Edit | None = None) -> Sites:
        """Logits and features of one pass; ``edit(l, F_l)`` gives the F'_l that goes on to the next layer.

        Without an edit the logits are those of ``forward`` bit for bit. Raises UsageError for a network that shows no
        activations (an ONNX teacher): methods that need logits only do without.
        """
        normal = self.normalize(images)
        if isinstance(self.net, TappedNet):
            recorder = Recorder(edit)
            return recorder.sites(self.net.walk(normal, recorder))
        if self._found is None:
            given: Sites = cast(Any, self.net).sites(normal, edit)
            return given
        return self._found.sites(self.net, normal, edit)

    def site_norms(self) -> Norms:
        """Per level the batch norm whose output is T_l, None where there is none."""
        if isinstance(self.net, TappedNet):
            return self.net.site_norms()
        if self._found is None:
            return tuple(cast(Any, self.net).site_norms())
        return (None,) * len(self._found.calls(self.net))

    @torch.no_grad()
    def site_shapes(self, images: Tensor) -> tuple[torch.Size, ...]:
        """[B, C_l, H_l, W_l] of every raw site for these images; moves no running statistics."""
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            return tuple(raw.shape for raw in self.sites(images).raw)
        finally:
            for module in training:
                module.training = True


def offers_sites(net: nn.Module) -> bool:
    """Whether it brings sites of its own: ours, or a user's with ``sites(images, edit)`` and ``site_norms()``."""
    return isinstance(net, TappedNet) or all(callable(getattr(net, name, None)) for name in ("sites", "site_norms"))
