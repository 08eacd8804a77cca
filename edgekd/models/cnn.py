"""Plain networks without batch norm: ``cnn3``, ``convpool-cifar``, ``convpool-mnist``, ``badnet-cnn``.

All are convolution, ReLU, pool, two or three times over, then two linear layers; they differ in numbers and in how
their authors named the layers, and both are data here. BadNet-CNN's published softmax is left off: logits come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .registry import Guess, Shapes, input_side
from .sites import Norms, Tap, TappedNet


@dataclass(frozen=True)
class Plan:
    """The numbers of one network, and its authors' names for conv1, conv2, …, then fc1 and fc2."""

    widths: tuple[int, ...]
    kernel: int
    padding: int
    pool: str  # max | average
    hidden: int
    dropout: float
    layers: tuple[str, ...]

    def map_side(self, side: int) -> int:
        """Cells a side that the head sees of an image ``side`` pixels wide; 0 when too small."""
        for _ in self.widths:
            side = max(0, side + 2 * self.padding - self.kernel + 1) // 2
        return side


PLANS = {
    "cnn3": Plan((32, 64, 128), 3, 1, "max", 256, 0.5, ("conv1", "conv2", "conv3", "fc1", "fc2")),
    "convpool-cifar": Plan(
        (32, 32, 64), 5, 2, "max", 64, 0.0,
        ("_encoder_cifar.0", "_encoder_cifar.3", "_encoder_cifar.6", "_classifier_cifar.0", "_classifier_cifar.2"),
    ),
    "convpool-mnist": Plan(
        (16, 32), 5, 0, "average", 512, 0.0,
        ("_encoder_mnist.0", "_encoder_mnist.3", "_classifier_mnist.0", "_classifier_mnist.2"),
    ),
    "badnet-cnn": Plan((16, 32), 5, 0, "average", 512, 0.0, ("conv1.0", "conv2.0", "fc1.0", "fc2.0")),
}  # fmt: skip


def own_names(plan: Plan) -> tuple[str, ...]:
    return *(f"conv{number}" for number in range(1, len(plan.widths) + 1)), "fc1", "fc2"


KEYS = {
    name: tuple(
        (theirs.replace(".", r"\.") + r"\.", f"{ours}.")
        for theirs, ours in zip(plan.layers, own_names(plan), strict=True)
    )
    for name, plan in PLANS.items()
}


class PlainCnn(TappedNet):
    def __init__(self, plan: Plan, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        before = shape[0]
        self.levels = len(plan.widths)
        for number, width in enumerate(plan.widths, 1):
            self.add_module(f"conv{number}", nn.Conv2d(before, width, plan.kernel, padding=plan.padding))
            before = width
        self.pool = nn.MaxPool2d(2) if plan.pool == "max" else nn.AvgPool2d(2)
        self.fc1 = nn.Linear(before * plan.map_side(shape[1]) * plan.map_side(shape[2]), plan.hidden)
        self.dropout = nn.Dropout(plan.dropout)
        self.fc2 = nn.Linear(plan.hidden, num_classes)

    def walk(self, images: Tensor, tap: Tap) -> Tensor:
        x = images
        for level in range(self.levels):
            x = tap.site(level, self.get_submodule(f"conv{level + 1}")(x))
            x = self.pool(F.relu(x))
        logits: Tensor = self.fc2(self.dropout(F.relu(self.fc1(torch.flatten(x, 1)))))
        return logits

    def site_norms(self) -> Norms:
        return (None,) * self.levels


def network(parts: Mapping[str, str], shape: tuple[int, int, int], num_classes: int) -> PlainCnn:
    """Raises UsageError for images too small for the pools."""
    plan = PLANS[parts["name"]]
    if not plan.map_side(shape[1]) or not plan.map_side(shape[2]):
        raise UsageError(f"{parts['name']} cannot take images as small as {shape[1]}x{shape[2]}.")
    return PlainCnn(plan, shape, num_classes)


def recognise(shapes: Shapes) -> list[Guess]:
    """By the authors' names, or by ours, under which ConvPool-MNIST and BadNet-CNN are the same."""
    guesses: list[Guess] = []
    for name, plan in PLANS.items():
        for names in (plan.layers, own_names(plan)):
            stem, hidden, head = (shapes.get(f"{names[index]}.weight") for index in (0, -2, -1))
            if not stem or not hidden or not head or (len(stem), len(hidden), len(head)) != (4, 2, 2):
                continue
            if name == "convpool-mnist" and names == own_names(plan):
                continue
            guesses.append(Guess(name, stem[1], head[0], input_side(hidden[1] / plan.widths[-1], plan.map_side)))
            break
    return guesses
