"""CIFAR ResNets of He et al. 2016 (arXiv 1512.03385, section 4.2) with option A shortcuts: ``resnetD``, D = 6n + 2.

``resnetD-wW`` is the same network with base width W instead of 16: small students for small teachers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .pooling import global_average, subsample
from .registry import Guess, Shapes, count
from .sites import Norms, Tap, TappedNet

KEYS: tuple[tuple[str, str], ...] = ()


class Block(nn.Module):
    """Two 3x3 convolutions; returns the sum before its activation."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.grown = stride, width - channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return y + self.shortcut(x)

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: every second pixel, new channels zero, half of them on each side."""
        if not self.grown:
            return x
        front = self.grown // 2
        return F.pad(subsample(x, self.stride), (0, 0, 0, 0, front, self.grown - front))


class CifarResNet(TappedNet):
    def __init__(self, channels: int, num_classes: int, depth: int, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks = (depth - 2) // 6
        self.layer1 = stage(width, width, 1, blocks)
        self.layer2 = stage(width, 2 * width, 2, blocks)
        self.layer3 = stage(2 * width, 4 * width, 2, blocks)
        self.linear = nn.Linear(4 * width, num_classes)

    def walk(self, images: Tensor, tap: Tap) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        for level, layer in enumerate((self.layer1, self.layer2, self.layer3)):
            *inner, last = layer.children()
            for block in inner:
                x = F.relu(block(x))
            x = F.relu(tap.site(level, last(x)))
        logits: Tensor = self.linear(global_average(x))
        return logits

    def site_norms(self) -> Norms:
        return None, None, None


def stage(channels: int, width: int, stride: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Block(channels, width, stride), *(Block(width, width, 1) for _ in range(blocks - 1)))


def network(parts: Mapping[str, str], shape: tuple[int, int, int], num_classes: int) -> CifarResNet:
    """parts: depth and, optionally, width. Raises UsageError for a depth that is not 6n + 2."""
    depth, width = int(parts["depth"]), int(parts.get("width") or 16)
    if depth < 8 or (depth - 2) % 6 or depth > 1202 or not 1 <= width <= 1024:
        near = max(8, min(1202, 6 * round((depth - 2) / 6) + 2))
        raise UsageError(
            f"A CIFAR ResNet has depth 6n + 2 (8, 14, 20, …, 1202) and width 1 to 1024, not depth {depth} and width "
            f"{width}: for instance resnet{near}, or resnet{near}-w8."
        )
    return CifarResNet(shape[0], num_classes, depth, width)


def recognise(shapes: Shapes) -> list[Guess]:
    stem, head = shapes.get("conv1.weight"), shapes.get("linear.weight")
    if (
        not stem
        or not head
        or len(stem) != 4
        or any(key.startswith("layer4.") or ".shortcut." in key for key in shapes)
    ):
        return []
    depth, width = 6 * count(shapes, r"layer1\.(\d+)\.conv1\.weight") + 2, stem[0]
    plain = width == 16 and depth not in (50,)  # resnet50 is the bottleneck network of resnet.py
    return [Guess(f"resnet{depth}" if plain else f"resnet{depth}-w{width}", stem[1], head[0])]
