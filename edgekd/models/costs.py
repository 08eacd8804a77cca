"""What a network costs: parameters and multiply-adds, and which student is the largest that costs less."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import UsageError
from ..types import InputSpec, ModelSpec
from .builder import bare
from .registry import ARCHITECTURES, resolve, usual_input

# Below this side a network made for 224x224 images throws too much away, above it one for 32x32 costs too much.
LARGE_IMAGES = 128


SHAPE_KEEPING = frozenset(("batch_norm", "relu", "relu6", "elu"))


class Cost(NamedTuple):
    """Trainable parameters, and multiply-adds of convolutions and linear layers for one image."""

    parameters: int
    macs: int


class MacCounter(TorchFunctionMode):
    """Adds up the multiply-adds of every convolution and matrix product that runs; biases are free."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in SHAPE_KEEPING and args and args[0].is_meta:
            return args[0]  # asking torch for that shape takes longer than all convolutions together
        out = func(*args, **(kwargs or {}))
        if name in ("conv1d", "conv2d", "conv3d", "linear"):
            weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
            self.macs += out.numel() * weight[0].numel()
        elif name in ("matmul", "__matmul__", "bmm", "mm") and isinstance(args[0], Tensor):
            self.macs += out.numel() * args[0].shape[-1]
        return out


@lru_cache(maxsize=512)
def cost(spec: ModelSpec) -> Cost:
    """Cost of the network for one image of ``spec.input``; for networks of the zoo no number is computed or stored."""
    if ":" in spec.arch:
        network = bare(spec)
        return measure(network, torch.zeros(1, *spec.input.shape))
    with torch.device("meta"):
        network = bare(spec)
        return measure(network, torch.zeros(1, *spec.input.shape))


@torch.no_grad()
def measure(module: nn.Module, image: Tensor) -> Cost:
    """Run one image [1, C, H, W] and count."""
    module.eval()
    counter = MacCounter()
    with counter:
        module(image)
    return Cost(sum(value.numel() for value in module.parameters() if value.requires_grad), counter.macs)


def default_student(teacher: Cost | None, candidates: tuple[str, ...], inputs: InputSpec, num_classes: int) -> str:
    """The largest candidate with fewer parameters than the teacher and no more multiply-adds.

    Without one among the candidates, the whole zoo is asked. teacher: None where its cost is unknown; then the largest
    candidate for this image size. Raises UsageError when every network is larger.
    """
    for names in (candidates, tuple(ARCHITECTURES)):
        fitting = []
        for name in names:
            if not suits(name, inputs):
                continue
            own = cost(ModelSpec(name, num_classes, inputs))
            if teacher is None or (own.parameters < teacher.parameters and own.macs <= teacher.macs):
                fitting.append((own.macs, own.parameters, name))
        if fitting:
            return max(fitting)[2]
    assert teacher is not None
    raise UsageError(
        f"No network of the zoo is smaller than this teacher ({teacher.parameters:,} parameters, {teacher.macs:,} "
        "multiply-adds). Name a student with --student, for instance resnet8-w2 or package.module:callable."
    )


def suits(name: str, inputs: InputSpec) -> bool:
    """Whether a network is made for students of this image size."""
    chosen = resolve(name)
    large = min(inputs.height, inputs.width) >= LARGE_IMAGES
    return chosen.family.student and not name.endswith("-layers") and (chosen.side == 224) == large


def zoo() -> list[dict[str, Any]]:
    """Every listed architecture with its cost at its usual image size and 10 classes, as rows of a table."""
    rows = []
    for name, chosen in ARCHITECTURES.items():
        own = cost(ModelSpec(name, 10, usual_input(chosen)))
        size = f"{chosen.side}x{chosen.side}"
        rows.append({"model": name, "images": size, **own._asdict(), "about": chosen.family.about})
    return rows
