"""The table of network families, and what a name stands for.

A new architecture is one file with ``network``, ``recognise`` and ``KEYS``, and one row of FAMILIES.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from torch import nn

from ..errors import UsageError, did_you_mean
from ..types import InputSpec

Shapes = Mapping[str, tuple[int, ...]]  # tensor name -> shape


class Guess(NamedTuple):
    """What a family reads from tensor names and shapes; ``side`` only where the head fixes the image size."""

    arch: str
    channels: int
    num_classes: int
    side: int | None = None


@dataclass(frozen=True)
class Family:
    """One file of networks: ``pattern`` is what its names look like, ``names`` those that lists show."""

    module: str
    pattern: str
    names: tuple[str, ...]
    about: str
    student: bool = True  # may be picked as a default student


FAMILIES = (
    Family(
        "resnet",
        r"resnet(?P<depth>18|34|50)(?P<large>-224)?",
        ("resnet18", "resnet34", "resnet50", "resnet18-224", "resnet34-224", "resnet50-224"),
        "ImageNet-style ResNet; without -224, its stem suits small images",
    ),
    Family(
        "cifar_resnet",
        r"resnet(?P<depth>\d{1,4})(-w(?P<width>\d{1,4}))?",
        (
            *("resnet8-w4", "resnet8-w6", "resnet8-w8", "resnet8-w12", "resnet8"),
            *(
                "resnet14-w8",
                "resnet14-w12",
                "resnet14",
                "resnet20-w12",
                "resnet20",
                "resnet32",
                "resnet44",
                "resnet56",
            ),
            "resnet110",
        ),
        "CIFAR ResNet with option A shortcuts, depth 6n + 2; -wW sets the base width (16)",
    ),
    Family(
        "wideresnet",
        r"wrn-(?P<depth>\d{1,4})-(?P<width>\d{1,2})(?P<style>-layers)?",
        (
            "wrn-10-1",
            "wrn-16-1",
            "wrn-16-1-layers",
            "wrn-16-2",
            "wrn-16-4",
            "wrn-28-2",
            "wrn-28-4",
            "wrn-40-1",
            "wrn-40-2",
        ),
        "wide ResNet, depth 6n + 4 and widening factor; -layers: for files that call the groups layer1..3",
    ),
    Family("mobilenetv2", r"mobilenetv2(?P<large>-224)?", ("mobilenetv2", "mobilenetv2-224"), "MobileNetV2"),
    Family(
        "preact_resnet",
        r"preactresnet(?P<depth>18|34)",
        ("preactresnet18", "preactresnet34"),
        "pre-activation ResNet for small images",
    ),
    Family(
        "distiller_resnet",
        r"distiller-resnet(?P<depth>\d{1,4})",
        ("distiller-resnet8", "distiller-resnet32"),
        "the Distiller project's ResNet",
        student=False,
    ),
    Family("vgg", r"smallvgg|stripnet", ("smallvgg", "stripnet"), "small VGG with ELU", student=False),
    Family(
        "cnn",
        r"cnn3|convpool-cifar|convpool-mnist|badnet-cnn",
        ("cnn3", "convpool-cifar", "convpool-mnist", "badnet-cnn"),
        "plain CNN without batch norm",
        student=False,
    ),
)


@dataclass(frozen=True)
class Architecture:
    """A name resolved: its family, the parts of the name, and the image side it is usually used at."""

    name: str
    family: Family
    parts: tuple[tuple[str, str], ...]

    @property
    def side(self) -> int:
        return 224 if self.name.endswith("-224") else 28 if self.name in ("convpool-mnist", "badnet-cnn") else 32

    def network(self, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """The network for (C, H, W) images, randomly initialised; UsageError for numbers that make no network."""
        build: Callable[..., nn.Module] = load(self.family).network
        return build({**dict(self.parts), "name": self.name}, shape, num_classes)

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """(pattern, replacement) pairs that turn a file's key prefixes into the network's."""
        keys = load(self.family).KEYS
        chosen: tuple[tuple[str, str], ...] = keys.get(self.name, ()) if isinstance(keys, dict) else keys
        return chosen


def load(family: Family) -> Any:
    return import_module(f"{__package__}.{family.module}")


def resolve(name: str) -> Architecture:
    """The architecture of that name; raises UsageError with the nearest known name."""
    for family in FAMILIES:
        match = re.fullmatch(family.pattern, name)
        if match:
            parts = tuple((key, value) for key, value in match.groupdict().items() if value)
            return Architecture(name, family, parts)
    raise UsageError(
        f"There is no architecture {name!r}.{did_you_mean(name, ARCHITECTURES)} `edgekd list models` shows "
        "them all; name a network of your own as package.module:callable."
    )


ARCHITECTURES: dict[str, Architecture] = {}
ARCHITECTURES.update({name: resolve(name) for family in FAMILIES for name in family.names})


def usual_input(architecture: Architecture) -> InputSpec:
    """The images a network is usually used on, not normalised."""
    channels = 1 if architecture.side == 28 else 3
    return InputSpec(channels, architecture.side, architecture.side, (0.0,) * channels, (1.0,) * channels)


def count(shapes: Shapes, pattern: str) -> int:
    """How many tensors are called like that: the number of blocks in a stage."""
    return sum(re.fullmatch(pattern, key) is not None for key in shapes)


def input_side(cells: float, map_side: Callable[[int], int]) -> int | None:
    """Side of the square images of which a head sees ``cells`` positions, usual sizes first; None if there is none."""
    side = math.isqrt(int(cells))
    if side * side != cells:
        return None
    usual = (32, 28, 64, 96, 128, 224)
    return next((candidate for candidate in (*usual, *range(8, 512)) if map_side(candidate) == side), None)
