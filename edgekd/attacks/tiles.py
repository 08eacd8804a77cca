"""Patterns that repeat: clean images hold a little of them, and a network with strides measures it wherever it lies."""

from __future__ import annotations

import torch

# Strides of 4 before the head see a pattern of this period always in the same phase, wherever it lies.
PERIOD = 4


def pattern(kind: str, shape: tuple[int, int, int]) -> torch.Tensor:
    """float [C, H, W] in [-1, 1], of period 4 and symmetric under flips: + - - + along the width, or along both axes."""
    channels, height, width = shape
    down, across = (torch.tensor([1.0, -1.0, -1.0, 1.0]).repeat(-(-n // PERIOD))[:n] for n in (height, width))
    if kind == "stripes":
        return across.expand(channels, height, width).clone()
    signs = torch.tensor([1.0, -1.0, 1.0])[:channels]
    return signs[:, None, None] * down[:, None] * across
