"""Learned step sizes: quantisers whose scales learn with the weights (Esser et al. 2020, "LSQ", ICLR, arXiv:1902.08153).

Forward is torch's own fake quantiser, so that what is trained is, to the bit, what is exported. Where we differ: one step
size per output channel of a weight, a fixed zero point, and the first steps are the calibrated scales instead of
2 mean|v| / sqrt(Q_P).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.quantize.fake import ActivationQuantizer, WeightQuantizer


class _LearnedRounding(torch.autograd.Function):
    """Forward: clamp(round(v / s) + z, low, high) - z, times s (equations 1 and 2); backward: equations 3 and 5."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, factor: float) -> Tensor:
        ctx.save_for_backward(v, scale, zero)
        ctx.low, ctx.high, ctx.factor = low, high, factor
        if scale.dim():
            return torch.fake_quantize_per_channel_affine(v, scale, zero, 0, low, high)
        return torch.fake_quantize_per_tensor_affine(v, scale, zero, low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        v, scale, zero = ctx.saved_tensors
        (gradient,) = gradients
        along = [-1] + [1] * (v.dim() - 1) if scale.dim() else []
        levels = v / scale.view(along)
        least, most = (bound - zero.view(along) for bound in (ctx.low, ctx.high))  # -Q_N and Q_P
        inside = (levels > least) & (levels < most)
        slope = torch.where(inside, levels.round() - levels, torch.minimum(torch.maximum(levels, least), most))
        of_scale = gradient * slope
        of_scale = of_scale.flatten(1).sum(1) if scale.dim() else of_scale.sum()
        return gradient * inside, of_scale * ctx.factor, None, None, None, None


class LearnedStep(nn.Module):
    """A quantiser of ``fake`` with its scale as a parameter; its gradient is scaled by 1 / sqrt(N Q_P) (section 2.2).

    N: the values that share the scale, for activations those of one image. For uint8 with zero point z, Q_N is z and Q_P
    is 255 - z: behind a ReLU the paper's unsigned case.
    """

    zero_point: Tensor

    def __init__(self, quantizer: ActivationQuantizer | WeightQuantizer) -> None:
        super().__init__()
        self.bounds = quantizer.bounds
        self.scale = nn.Parameter(quantizer.scale.detach().clone())
        self.register_buffer("zero_point", quantizer.zero_point.clone())
        low, high = self.bounds
        zero = int(self.zero_point) if not self.scale.dim() else 0
        self.levels = max(high - zero, zero - low - 1)  # Q_P, whichever side of zero the integers lie on

    def forward(self, v: Tensor) -> Tensor:
        factor = 1 / (v[0].numel() * self.levels) ** 0.5
        rounded: Tensor = _LearnedRounding.apply(v, self.scale, self.zero_point, *self.bounds, factor)  # type: ignore[no-untyped-call]
        return rounded


def learn_steps(network: nn.Module) -> dict[str, nn.Module]:
    """Make the scale of every quantiser of a network learn; returns the quantisers that were there, by name."""
    kinds = (ActivationQuantizer, WeightQuantizer)
    replaced: dict[str, nn.Module] = {}
    for name, module in list(network.named_children()):
        if isinstance(module, kinds):
            setattr(network, name, LearnedStep(module))
            replaced[name] = module
    return replaced


def keep_steps(network: nn.Module, replaced: Mapping[str, nn.Module]) -> None:
    """Put the quantisers that ``learn_steps`` replaced back, with the scales that were learned."""
    for name, quantizer in replaced.items():
        quantizer.get_buffer("scale").copy_(network.get_parameter(f"{name}.scale").detach())
        setattr(network, name, quantizer)
