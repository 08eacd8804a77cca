"""Wide ResNets (Zagoruyko and Komodakis 2016, arXiv 1605.07146): ``wrn-D-W``, D = 6n + 4, no dropout.

Checkpoints name the groups ``block1..3`` and the head ``fc`` or, elsewhere, ``layer1..3`` and ``linear``: one network,
the second style is renamed on reading.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .pooling import global_average
from .registry import Guess, Shapes, count
from .sites import Norms, Tap, TappedNet

KEYS = ((r"layer([123])\.", r"block\1."), (r"linear\.", "fc."))


class Block(nn.Module):
    """Pre-activation block; the caller hands in bn1(x), which at a group's entry is a site's target."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(channels, width, 1, stride, bias=False) if channels != width else None

    def forward(self, x: Tensor, normed: Tensor) -> Tensor:
        active = F.relu(normed)
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + (x if self.convShortcut is None else self.convShortcut(active))


class Group(nn.Module):
    """Blocks of one width; only there because checkpoints spell ``block1.layer.0``."""

    def __init__(self, channels: int, width: int, stride: int, blocks: int) -> None:
        super().__init__()
        first = Block(channels, width, stride)
        self.layer = nn.ModuleList([first, *(Block(width, width, 1) for _ in range(blocks - 1))])


class WideResNet(TappedNet):
    def __init__(self, channels: int, num_classes: int, depth: int, width: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.block1 = Group(16, 16 * width, 1, blocks)
        self.block2 = Group(16 * width, 32 * width, 2, blocks)
        self.block3 = Group(32 * width, 64 * width, 2, blocks)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)

    def walk(self, images: Tensor, tap: Tap) -> Tensor:
        x = self.conv1(images)
        for level, group in enumerate((self.block1, self.block2, self.block3)):
            for number, block in enumerate(group.layer):
                normed = block.get_submodule("bn1")(x)
                if number == 0 and level > 0:
                    tap.target(level - 1, normed)
                x = block(x, normed)
            x = tap.raw(level, x)
        x = self.bn1(x)
        tap.target(2, x)
        logits: Tensor = self.fc(global_average(F.relu(x)))
        return logits

    def site_norms(self) -> Norms:
        entries = [group.layer[0].get_submodule("bn1") for group in (self.block2, self.block3)]
        return tuple(norm for norm in (*entries, self.bn1) if isinstance(norm, nn.BatchNorm2d))


def network(parts: Mapping[str, str], shape: tuple[int, int, int], num_classes: int) -> WideResNet:
    """parts: depth and width (the widening factor). Raises UsageError for a depth that is not 6n + 4."""
    depth, width = int(parts["depth"]), int(parts["width"])
    if depth < 10 or (depth - 4) % 6 or depth > 1204 or not 1 <= width <= 64:
        near = max(10, min(1204, 6 * round((depth - 4) / 6) + 4))
        raise UsageError(
            f"A wide ResNet has depth 6n + 4 (10, 16, 22, 28, 40, …) and a widening factor of 1 to 64, not {depth} and "
            f"{width}: for instance wrn-{near}-{min(max(width, 1), 64)}."
        )
    return WideResNet(shape[0], num_classes, depth, width)


def recognise(shapes: Shapes) -> list[Guess]:
    for group, head, style in (("block", "fc", ""), ("layer", "linear", "-layers")):
        stem, entry, top = (
            shapes.get(key) for key in ("conv1.weight", f"{group}1.layer.0.conv1.weight", f"{head}.weight")
        )
        if stem and entry and top and len(stem) == 4 and entry[0] % 16 == 0:
            depth = 6 * count(shapes, rf"{group}1\.layer\.(\d+)\.conv1\.weight") + 4
            return [Guess(f"wrn-{depth}-{entry[0] // 16}{style}", stem[1], top[0])]
    return []
