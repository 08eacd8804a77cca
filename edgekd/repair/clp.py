"""CLP (Zheng et al., ECCV 2022, arXiv 2208.03111): prunes the channels that amplify far more than their neighbours."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import nn

from ..models import Network
from ..training import Settings
from ..training.method import Accuracy
from .base import Repair
from .norms import scaled_convolutions


class LipschitzPruningSettings(Settings):
    u: float = Field(
        3.0, gt=0, description="a channel is pruned from this many standard deviations above its layer's mean"
    )


class LipschitzPruning(Repair):
    """A channel k of a convolution is pruned where L_k > mean + u · std of its layer; no image is looked at.

    L_k is the largest singular value of its filter as a matrix [C_in, kh · kw], times |γ_k| / σ_k of the batch norm that
    the convolution feeds: an upper bound of what the channel makes of a change of its input. Pruned means that the
    norm's scale and shift are 0. Which norm follows which convolution is seen in a pass, not read from the order of
    modules; a convolution that feeds none, or a sum first, is left alone. The deviation is the population's.
    """

    Config = LipschitzPruningSettings
    needs = "norms of convolutions"
    trains = False

    @torch.no_grad()
    def finish(self, student: Any, accuracy: Accuracy | None) -> tuple[Network, dict[str, Any]]:
        """Prune; says channels pruned and looked at, and ``where``: their numbers by the name of the norm."""
        network: Network = student
        found: dict[str, list[int]] = {}
        channels = 0
        for name, (convolution, norm) in scaled_convolutions(network, self.spec.input.shape).items():
            constants = channel_constants(convolution, norm)
            loud = constants > constants.mean() + self.config.u * constants.std(correction=0)
            norm.weight.masked_fill_(loud, 0.0)
            norm.bias.masked_fill_(loud, 0.0)
            channels += len(loud)
            if bool(loud.any()):
                found[name] = loud.nonzero().flatten().tolist()
        pruned = sum(map(len, found.values()))
        return network, {"pruned": pruned, "channels": channels, "where": found}


def channel_constants(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> torch.Tensor:
    """L_k = s_max(W_k) · |γ_k| / σ_k, float64 [C]: s_max of the filter [C_in, kh · kw], σ_k with the norm's eps."""
    filters = convolution.weight.detach().double().flatten(2)
    variance = norm.running_var
    assert variance is not None  # norms without statistics were left out
    gain = norm.weight.detach().double().abs() / (variance.double() + norm.eps).sqrt()
    constants: torch.Tensor = torch.linalg.matrix_norm(filters, ord=2) * gain
    return constants
