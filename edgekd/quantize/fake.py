"""Fake quantisers: round to the integers and back in float, so that torch sees what the INT8 file will compute.

Gradients pass straight through inside the range and are zero outside. Both modules become QuantizeLinear and
DequantizeLinear when exported to ONNX.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.quantize.calibrators import SCALE_FLOORS, Range, affine


class ActivationQuantizer(nn.Module):
    """One scale for a whole tensor: int8 with zero point 0 when symmetric, else uint8; off when not ``enabled``."""

    scale: Tensor
    zero_point: Tensor
    enabled: bool = True

    def __init__(self, limits: Range, symmetric: bool) -> None:
        super().__init__()
        scale, zero_point = affine(limits, symmetric)
        self.bounds = (-128, 127) if symmetric else (0, 255)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, *self.bounds)


class WeightQuantizer(nn.Module):
    """One symmetric int8 scale per output channel (axis 0), largest weight at 127 (63 with ``reduce_range``).

    floor: the least scale per channel, [channels] or a number above 0, for a channel without weights.
    bounds: the integers that weights may become, also after training.
    """

    scale: Tensor
    zero_point: Tensor
    enabled: bool = True

    def __init__(self, weight: Tensor, floor: Tensor | float = SCALE_FLOORS["s8"], reduce_range: bool = False) -> None:
        super().__init__()
        self.bounds = (-63, 63) if reduce_range else (-128, 127)
        largest = weight.detach().flatten(1).abs().amax(1)
        floor = torch.as_tensor(floor, dtype=torch.float32, device=weight.device)
        scale = torch.maximum(largest / (63 if reduce_range else 127), floor)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros_like(scale, dtype=torch.int32))

    def forward(self, weight: Tensor) -> Tensor:
        if not self.enabled:
            return weight
        return torch.fake_quantize_per_channel_affine(weight, self.scale, self.zero_point, 0, -128, 127)


def _shape_of_masked(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)


# torch 2.13 has no shape rule for its own fake-quantise operators, so torch.export refuses them with a free batch size.
_rules = torch.library.Library("aten", "IMPL", "Meta")  # type: ignore[no-untyped-call]
for _operator in (
    "fake_quantize_per_tensor_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "fake_quantize_per_channel_affine_cachemask",
):
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{_operator}", "Meta"):
        _rules.impl(_operator, _shape_of_masked)  # type: ignore[no-untyped-call]
