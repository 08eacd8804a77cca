"""Pooling whose gradients keep the memory layout of the features.

``x.mean((2, 3))`` and ``x[:, :, ::2, ::2]`` hand back gradients in the other layout than channels_last features, and every
operation behind them then copies: on a CPU a ResNet-8 step took 1.6 times as long.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def global_average(features: Tensor) -> Tensor:
    """Mean over space: [B, C, H, W] -> [B, C]."""
    return F.avg_pool2d(features, features.shape[2:]).flatten(1)


def subsample(features: Tensor, stride: int) -> Tensor:
    """Every stride-th pixel: the values of ``features[:, :, ::stride, ::stride]``."""
    return F.max_pool2d(features, 1, stride)
