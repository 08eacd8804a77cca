"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381): ``mobilenetv2`` and ``mobilenetv2-224``.

torchvision's key names; -224 is the published network. The small-image network has stride 1 in the stem and in the
24-channel stage, so 32x32 ends at 4x4. A site is the linear output of the last block of a resolution (no activation
follows it: the next block expands first), and the norm before the head's pool; resolutions above a quarter of a 224
image have none.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from .pooling import global_average
from .registry import Guess, Shapes
from .sites import Norms, Tap, TappedNet

KEYS: tuple[tuple[str, str], ...] = ()
# expansion, channels, blocks, stride of the first block (paper, table 2)
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
LAST = 1280


def conv_norm(channels: int, width: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))


class Block(nn.Module):
    """Inverted residual: expand, depthwise 3x3, project; linear at its end."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        layers = [nn.Sequential(*conv_norm(channels, wide, 1, 1), nn.ReLU6())] if expansion > 1 else []
        layers.append(nn.Sequential(*conv_norm(wide, wide, 3, stride, groups=wide), nn.ReLU6()))
        self.conv = nn.Sequential(*layers, *conv_norm(wide, width, 1, 1))
        self.residual = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(TappedNet):
    def __init__(self, channels: int, num_classes: int, large: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm(channels, 32, 3, 2 if large else 1)]
        before = 32
        strides = []
        for expansion, width, blocks, first in STAGES:
            for number in range(blocks):
                stride = first if number == 0 and (large or width != 24) else 1
                layers.append(Block(before, width, stride, expansion))
                strides.append(stride)
                before = width
        layers.append(conv_norm(before, LAST, 1, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST, num_classes))
        # block i (1-based, as in `features`) ends a resolution when block i + 1 strides
        ends = [index for index, stride in enumerate(strides) if stride == 2 and index > 0]
        self.site_blocks = tuple(end for end in ends if end > 1)

    def walk(self, images: Tensor, tap: Tap) -> Tensor:
        x = F.relu6(self.features[0](images))
        for index in range(1, len(self.features) - 1):
            x = self.features[index](x)
            if index in self.site_blocks:
                x = tap.site(self.site_blocks.index(index), x)
        x = F.relu6(tap.site(len(self.site_blocks), self.features[-1](x)))
        logits: Tensor = self.classifier(global_average(x))
        return logits

    def site_norms(self) -> Norms:
        last = self.get_submodule(f"features.{len(self.features) - 1}.1")
        return *((None,) * len(self.site_blocks)), last if isinstance(last, nn.BatchNorm2d) else None


def network(parts: Mapping[str, str], shape: tuple[int, int, int], num_classes: int) -> MobileNetV2:
    return MobileNetV2(shape[0], num_classes, large=bool(parts.get("large")))


def recognise(shapes: Shapes) -> list[Guess]:
    """Both networks have the same tensors: only the image size tells them apart."""
    stem, head = shapes.get("features.0.0.weight"), shapes.get("classifier.1.weight")
    if not stem or not head or len(stem) != 4 or "features.1.conv.0.0.weight" not in shapes:
        return []
    return [Guess(name, stem[1], head[0]) for name in ("mobilenetv2", "mobilenetv2-224")]
