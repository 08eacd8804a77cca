"""Two small VGG-style networks with ELU: ``smallvgg`` (norm before the activation), ``stripnet`` (norm after it).

Twice a 3x3 convolution, norm and ELU, then max-pool 2 and dropout, at widths 32, 64, 128; a linear head on the
flattened map. SmallVGG is the network of the I-BAU release (Zeng et al. 2022), StripNet that of KISD. In StripNet the
last pre-activation tensor of a width is the convolution's own output, so its targets have no norm.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .registry import Guess, Shapes, input_side
from .sites import Norms, Tap, TappedNet

# StripNet's file repeats every tensor under `model.` and under its own name: `layers.` is what the network uses.
KEYS = ((r"model\.", "layers."),)
WIDTHS = (32, 64, 128)


class SmallVgg(TappedNet):
    sites_after = (4, 12, 20)  # the second norm of each width

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = shape[0]
        for width, rate in zip(WIDTHS, (0.2, 0.3, 0.4), strict=True):
            for channels in (before, width):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ELU()]
            layers += [nn.MaxPool2d(2), nn.Dropout(rate)]
            before = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(before * map_side(shape[1]) * map_side(shape[2]), num_classes)

    def walk(self, images: Tensor, tap: Tap) -> Tensor:
        x = walk_through(self.features, self.sites_after, images, tap)
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits

    def site_norms(self) -> Norms:
        norms = (self.features[index] for index in self.sites_after)
        return tuple(norm for norm in norms if isinstance(norm, nn.BatchNorm2d))


class StripNet(TappedNet):
    sites_after = (3, 11, 19)  # the second convolution of each width

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = shape[0]
        for width, rate in zip(WIDTHS, (0.2, 0.3, 0.4), strict=True):
            for channels in (before, width):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ELU(), nn.BatchNorm2d(width)]
            layers += [nn.MaxPool2d(2), nn.Dropout2d(rate)]
            before = width
        layers += [nn.Flatten(), nn.Linear(before * map_side(shape[1]) * map_side(shape[2]), num_classes)]
        self.layers = nn.Sequential(*layers)

    def walk(self, images: Tensor, tap: Tap) -> Tensor:
        return walk_through(self.layers, self.sites_after, images, tap)

    def site_norms(self) -> Norms:
        return None, None, None


def walk_through(layers: nn.Sequential, sites_after: tuple[int, ...], x: Tensor, tap: Tap) -> Tensor:
    """Run the layers; what leaves the ones named is a site."""
    for index, layer in enumerate(layers):
        x = layer(x)
        if index in sites_after:
            x = tap.site(sites_after.index(index), x)
    return x


def map_side(side: int) -> int:
    """Cells a side that the head sees of an image ``side`` pixels wide."""
    return side // 2 // 2 // 2


def network(parts: Mapping[str, str], shape: tuple[int, int, int], num_classes: int) -> TappedNet:
    """Raises UsageError for images too small to be halved three times."""
    if not map_side(shape[1]) or not map_side(shape[2]):
        raise UsageError(f"{parts['name']} needs images of 8x8 or more, not {shape[1]}x{shape[2]}.")
    return (SmallVgg if parts["name"] == "smallvgg" else StripNet)(shape, num_classes)


def recognise(shapes: Shapes) -> list[Guess]:
    guesses = []
    for name, stem_key, second_norm, head_key in (
        ("smallvgg", "features.0.weight", "features.1.weight", "classifier.weight"),
        ("stripnet", "layers.0.weight", "layers.2.weight", "layers.25.weight"),
    ):
        stem, head = shapes.get(stem_key), shapes.get(head_key)
        if stem and head and len(stem) == 4 and len(head) == 2 and second_norm in shapes:
            guesses.append(Guess(name, stem[1], head[0], input_side(head[1] / WIDTHS[-1], map_side)))
    return guesses
