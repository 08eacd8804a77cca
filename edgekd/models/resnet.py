"""ImageNet-style ResNets: ``resnet18``, ``resnet34``, ``resnet50`` with a 3x3 stem for small images, or ``-224``.

He et al. 2016 (arXiv 1512.03385), but bottlenecks stride in their 3x3 convolution; torchvision's key names, and those
of the CIFAR repositories (``shortcut``, ``linear``) renamed on reading. Sites end the four stages; the stem has none.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from .pooling import global_average
from .registry import Guess, Shapes, count
from .sites import Norms, Tap, TappedNet

KEYS = ((r"(layer\d\.\d+)\.shortcut\.", r"\1.downsample."), (r"linear\.", "fc."))
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; returns the sum before its activation."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = projection(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return y + (x if self.downsample is None else self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; returns the sum before its activation."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = projection(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return y + (x if self.downsample is None else self.downsample(x))


def projection(channels: int, width: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == width:
        return None
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


class ResNet(TappedNet):
    def __init__(self, channels: int, num_classes: int, depth: int, large: bool) -> None:
        super().__init__()
        kind = Bottleneck if depth >= 50 else BasicBlock
        self.large = large
        self.conv1 = (
            nn.Conv2d(channels, 64, 7, 2, 3, bias=False) if large else nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(64)
        before = 64
        for number, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS[depth], strict=True), 1):
            wide = width * kind.expansion
            first = kind(before, width, 1 if number == 1 else 2)
            self.add_module(f"layer{number}", nn.Sequential(first, *(kind(wide, width, 1) for _ in range(blocks - 1))))
            before = wide
        self.fc = nn.Linear(before, num_classes)

    def walk(self, images: Tensor, tap: Tap) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        if self.large:
            x = F.max_pool2d(x, 3, 2, 1)
        for level in range(4):
            *inner, last = self.get_submodule(f"layer{level + 1}").children()
            for block in inner:
                x = F.relu(block(x))
            x = F.relu(tap.site(level, last(x)))
        logits: Tensor = self.fc(global_average(x))
        return logits

    def site_norms(self) -> Norms:
        return None, None, None, None


def network(parts: Mapping[str, str], shape: tuple[int, int, int], num_classes: int) -> ResNet:
    return ResNet(shape[0], num_classes, int(parts["depth"]), large=bool(parts.get("large")))


def recognise(shapes: Shapes) -> list[Guess]:
    stem = shapes.get("conv1.weight")
    head = shapes.get("fc.weight") or shapes.get("linear.weight")
    if not stem or not head or len(stem) != 4 or "bn1.weight" not in shapes or "layer4.0.conv1.weight" not in shapes:
        return []
    blocks = tuple(count(shapes, rf"layer{number}\.(\d+)\.conv1\.weight") for number in (1, 2, 3, 4))
    deep = "layer1.0.conv3.weight" in shapes
    large = "-224" if stem[2] == 7 else ""
    return [
        Guess(f"resnet{depth}{large}", stem[1], head[0])
        for depth, wanted in BLOCKS.items()
        if blocks == wanted and (depth >= 50) == deep
    ]
