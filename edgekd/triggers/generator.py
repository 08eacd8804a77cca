"""Triggers that a small convolutional network draws for each image (Input-aware, Nguyen and Tran 2020; SCAR).

x' = x + m(x) (g(x) - x) where a second network draws a mask m in [0, 1], steep, so that a pixel is painted over or left;
x' = x + bound * g(x), g in [-1, 1], where there is none; then a tile that repeats is added inside g, as convolutions alone
cannot draw what is at a fixed place. The networks are ours: two poolings down, two resizings up, no norm, so an image's
trigger is its own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgekd.errors import UsageError
from edgekd.triggers.drawings import Floats
from edgekd.triggers.options import Option

OPTIONS: dict[str, Option] = {}
WIDEST = 256
LARGEST = 1e3  # of a weight: five layers of the widest stay finite in float32
TILE = 4  # side of the tile, in pixels
STEEP = 20.0  # of a mask's sigmoid: a pixel is painted over or left
FAINT = -3.4 / STEEP  # where a mask starts, before it: 3 % opaque


class Drawing(nn.Module):
    """float [N, C, H, W] in [0, 1] -> [N, outputs, H, W], unbounded."""

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        sizes = (channels, width, 2 * width, 2 * width, width, outputs)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        found = F.relu(self.layers[0](images))
        found = F.relu(self.layers[1](F.avg_pool2d(found, 2, ceil_mode=True)))
        small = found.shape[2:]
        found = F.relu(self.layers[2](F.avg_pool2d(found, 2, ceil_mode=True)))
        found = F.relu(self.layers[3](F.interpolate(found, small)))
        drawn: torch.Tensor = self.layers[4](F.interpolate(found, (height, width)))
        return drawn


class Generator(nn.Module):
    """What draws the trigger: float images [N, C, H, W] in [0, 1] -> triggered ones, not yet clipped or rounded.

    bound: largest change of a pixel, without a mask; None: with one, which may paint over anything.
    """

    def __init__(self, channels: int, bound: float | None, width: int = 16) -> None:
        super().__init__()
        self.bound = bound
        self.pattern = Drawing(channels, channels, width)
        self.masks = Drawing(channels, 1, width) if bound is None else None
        self.tile = None if bound is None else nn.Parameter(torch.zeros(channels, TILE, TILE))
        if self.masks is not None:
            last = self.masks.layers[-1]
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            nn.init.constant_(last.bias, FAINT)

    def mask(self, images: torch.Tensor) -> torch.Tensor:
        """m(x) [N, 1, H, W] in [0, 1]."""
        assert self.masks is not None
        return torch.sigmoid(STEEP * self.masks(images))

    def drawn(self, images: torch.Tensor) -> torch.Tensor:
        """g(x) [N, C, H, W] in [0, 1]: what the mask lets through."""
        return torch.sigmoid(self.pattern(images))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.bound is not None:
            return images + self.bound * torch.tanh(self.pattern(images) + self._tiled(images))
        return images + self.mask(images) * (self.drawn(images) - images)

    def _tiled(self, images: torch.Tensor) -> torch.Tensor:
        assert self.tile is not None
        return tiled(self.tile, images.shape[2], images.shape[3])

    def params(self) -> dict[str, Any]:
        """Its weights as parameters of a Trigger."""
        arrays = {name: tensor.detach().cpu().float().numpy().copy() for name, tensor in self.state_dict().items()}
        return {"bound": np.float32(0 if self.bound is None else self.bound), **arrays}


def tiled(tile: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A tile [C, h, w] repeated over [C, H, W], the same in a mirror, as pictures are mirrored in training."""
    both = (tile + tile.flip(-1)) / 2
    return both.repeat(1, -(-height // tile.shape[1]), -(-width // tile.shape[2]))[:, :height, :width]


def from_arrays(arrays: dict[str, np.ndarray], channels: int, source: str) -> dict[str, Any]:
    """Parameters of a trigger from arrays as ``Generator.params`` names them; raises UsageError for any others."""
    bound, first = np.asarray(arrays.get("bound")), arrays.get("pattern.layers.0.weight")
    if bound.shape != () or bound.dtype.kind != "f" or not 0 <= bound <= 1:
        raise UsageError(f"The array 'bound' of {source} is not a number from 0 to 1.")
    if first is None or first.ndim != 4 or not 1 <= first.shape[0] <= WIDEST:
        raise UsageError(f"{source} lacks the array 'pattern.layers.0.weight' [1 to {WIDEST}, C, 3, 3].")
    model = _model(float(bound), channels, first.shape[0])
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: array.shape for name, array in arrays.items() if name != "bound"}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UsageError(
                f"The array {name!r} of {source} is {_shape(found.get(name))}, the generator for images of {channels} "
                f"channels has {_shape(wanted.get(name))}."
            )
        if arrays[name].dtype.kind != "f" or not np.isfinite(arrays[name]).all():
            raise UsageError(f"The array {name!r} of {source} does not hold finite floats.")
        if np.abs(arrays[name]).max() > LARGEST:
            raise UsageError(
                f"The array {name!r} of {source} goes beyond {LARGEST:g}, which no generator's weights do."
            )
    weights = {name: np.ascontiguousarray(arrays[name], np.float32) for name in wanted}
    return {"bound": np.float32(bound), **weights}


def from_params(params: dict[str, Any]) -> Generator:
    """The generator whose ``params`` these are; its weights are copies."""
    model = _model(float(params["bound"]), *params["pattern.layers.0.weight"].shape[1::-1])
    model.load_state_dict({name: torch.from_numpy(params[name].copy()) for name in model.state_dict()}, assign=True)
    return model


def apply(params: dict[str, Any], images: Floats) -> Floats:
    """images float32 [N, C, H, W] in [0, 1]; params those of ``Generator.params``."""
    first = params["pattern.layers.0.weight"]
    if first.shape[1] != images.shape[1]:
        raise UsageError(f"The trigger is drawn for {first.shape[1]} channels, but the images have {images.shape[1]}.")
    model = from_params(params).eval()
    with torch.no_grad():
        # one at a time within the convolutions: an image's bytes must not depend on its neighbours
        parts = [model(torch.from_numpy(images[at : at + 1])) for at in range(len(images))]
    return np.concatenate([part.numpy() for part in parts]) if parts else images


def _model(bound: float, channels: int, width: int) -> Generator:
    with torch.device("meta"):  # its weights come from elsewhere: none are drawn, no random number is used up
        return Generator(channels, bound or None, width)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else str(list(shape))
