"""Pre-activation ResNets for small images (He et al. 2016, arXiv 1603.05027): ``preactresnet18``, ``preactresnet34``.

Key names and the missing norm before the head are those of the network that backdoor benchmarks train: the last stage's
sum goes to the pool as it is, so the last target is the sum itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from .pooling import global_average
from .registry import Guess, Shapes, count
from .sites import Norms, Tap, TappedNet

KEYS: tuple[tuple[str, str], ...] = ()
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """Pre-activation basic block; the caller hands in bn1(x), which at a stage's entry is a site's target."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = None
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False))

    def forward(self, x: Tensor, normed: Tensor) -> Tensor:
        active = F.relu(normed)
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))


class PreActResNet(TappedNet):
    def __init__(self, channels: int, num_classes: int, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        before = 64
        for number, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS[depth], strict=True), 1):
            first = Block(before, width, 1 if number == 1 else 2)
            self.add_module(
                f"layer{number}", nn.Sequential(first, *(Block(width, width, 1) for _ in range(blocks - 1)))
            )
            before = width
        self.linear = nn.Linear(before, num_classes)

    def walk(self, images: Tensor, tap: Tap) -> Tensor:
        x = self.conv1(images)
        for level in range(4):
            for number, block in enumerate(self.get_submodule(f"layer{level + 1}").children()):
                normed = block.get_submodule("bn1")(x)
                if number == 0 and level > 0:
                    tap.target(level - 1, normed)
                x = block(x, normed)
            x = tap.raw(level, x) if level < 3 else tap.site(level, x)
        logits: Tensor = self.linear(global_average(x))
        return logits

    def site_norms(self) -> Norms:
        entries = (self.get_submodule(f"layer{number}.0.bn1") for number in (2, 3, 4))
        return *(norm for norm in entries if isinstance(norm, nn.BatchNorm2d)), None


def network(parts: Mapping[str, str], shape: tuple[int, int, int], num_classes: int) -> PreActResNet:
    return PreActResNet(shape[0], num_classes, int(parts["depth"]))


def recognise(shapes: Shapes) -> list[Guess]:
    stem, head = shapes.get("conv1.weight"), shapes.get("linear.weight")
    if not stem or not head or len(stem) != 4 or "bn1.weight" in shapes or "layer4.0.bn1.weight" not in shapes:
        return []
    blocks = tuple(count(shapes, rf"layer{number}\.(\d+)\.conv1\.weight") for number in (1, 2, 3, 4))
    return [Guess(f"preactresnet{depth}", stem[1], head[0]) for depth, wanted in BLOCKS.items() if blocks == wanted]
