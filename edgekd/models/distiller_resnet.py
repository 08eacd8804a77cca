"""ResNets as the Distiller project trained them (Ruffy and Chahal 2019): ``distiller-resnetD``, D = 6n + 2.

A stem of 64 channels before stages of 16, 32, 64; weights in every shortcut that changes shape; no ReLU after the sums
inside a stage, one after each whole stage; average pool 4, so that 32x32 images leave 2x2 cells for the head.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .registry import Guess, Shapes, count, input_side
from .sites import Norms, Tap, TappedNet

KEYS: tuple[tuple[str, str], ...] = ()
WIDTHS = (16, 32, 64)
POOL = 4


class Block(nn.Module):
    """Two 3x3 convolutions; returns the sum, which no activation follows inside a stage."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x)
        return y


class DistillerResNet(TappedNet):
    def __init__(self, shape: tuple[int, int, int], num_classes: int, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(shape[0], 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        blocks = (depth - 2) // 6
        before = 64
        for number, width in enumerate(WIDTHS, 1):
            first = Block(before, width, 1 if number == 1 else 2)
            self.add_module(
                f"layer{number}", nn.Sequential(first, *(Block(width, width, 1) for _ in range(blocks - 1)))
            )
            before = width
        self.linear = nn.Linear(before * map_side(shape[1]) * map_side(shape[2]), num_classes)

    def walk(self, images: Tensor, tap: Tap) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        for level in range(len(WIDTHS)):
            x = F.relu(tap.site(level, self.get_submodule(f"layer{level + 1}")(x)))
        logits: Tensor = self.linear(torch.flatten(F.avg_pool2d(x, POOL), 1))
        return logits

    def site_norms(self) -> Norms:
        return None, None, None


def map_side(side: int) -> int:
    """Cells a side that the head sees of an image ``side`` pixels wide."""
    return (side + 3) // 4 // POOL


def network(parts: Mapping[str, str], shape: tuple[int, int, int], num_classes: int) -> DistillerResNet:
    """parts: depth. Raises UsageError for a depth that is not 6n + 2 or images too small for the head."""
    depth = int(parts["depth"])
    if depth < 8 or (depth - 2) % 6 or depth > 1202:
        raise UsageError(
            f"A Distiller ResNet has depth 6n + 2 (8, 14, 20, …), not {depth}: distiller-resnet8, for one."
        )
    if not map_side(shape[1]) or not map_side(shape[2]):
        raise UsageError(f"distiller-resnet{depth} needs images of 13x13 or more, not {shape[1]}x{shape[2]}.")
    return DistillerResNet(shape, num_classes, depth)


def recognise(shapes: Shapes) -> list[Guess]:
    stem, head = shapes.get("conv1.weight"), shapes.get("linear.weight")
    if (
        not stem
        or not head
        or len(stem) != 4
        or "layer1.0.shortcut.0.weight" not in shapes
        or "layer4.0.conv1.weight" in shapes
    ):
        return []
    depth = 6 * count(shapes, r"layer1\.(\d+)\.conv1\.weight") + 2
    return [Guess(f"distiller-resnet{depth}", stem[1], head[0], input_side(head[1] / WIDTHS[-1], map_side))]
