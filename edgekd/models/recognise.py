"""Which network do these tensors belong to? Names and shapes answer; values are never looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import UsageError
from ..types import InputSpec, ModelSpec
from . import user
from .builder import bare, differences, rename
from .normalization import normalization
from .registry import ARCHITECTURES, FAMILIES, Guess, Shapes, load, resolve, usual_input

Shape = tuple[int, int, int]
ALIKE = 0.3  # share of tensor names from which on a network is worth naming as near


def infer_spec(
    tensors: Mapping[str, Tensor],
    *,
    arch: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    normalize: str | tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> ModelSpec:
    """The spec of the network that a file's tensors belong to.

    arch: a name of the zoo or package.module:callable, where the tensors do not tell. input_shape: (C, H, W) of the
    images, checked against what the network takes. num_classes: overrides the head's. normalize: a preset's name or
    (mean, std); None or "auto" leave the input as it is, for ``detect_normalization`` to decide. Raises UsageError when
    nothing fits, listing what is near, and when several do, listing them.
    """
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    images: Shape | None = None
    if input_shape is not None:
        images = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
    guess = named(shapes, arch, images) if arch is not None else recognised(shapes, images)
    if num_classes is not None and guess.num_classes and num_classes != guess.num_classes:
        raise UsageError(
            f"--num-classes is {num_classes}, but the network in the file ({guess.arch}) has {guess.num_classes} "
            "outputs. Leave it out: it is only for files that do not tell."
        )
    channels, height, width = images or (guess.channels, *(2 * [guess.side or 32]))
    mean, std = normalization(normalize, channels)
    return ModelSpec(guess.arch, num_classes or guess.num_classes, InputSpec(channels, height, width, mean, std))


def named(shapes: Shapes, arch: str, input_shape: Shape | None) -> Guess:
    """The user named the network: the rest of the spec is read from the tensors."""
    if not user.is_user_network(arch):
        family = resolve(arch).family
        for guess in load(family).recognise(shapes):
            if guess.arch == arch:
                return with_usual_side(guess)
    first = next((shape for shape in shapes.values() if len(shape) == 4), None)
    last = [shape for shape in shapes.values() if len(shape) == 2]
    if not last:
        raise UsageError("The file has no linear layer to read the number of classes from. Give --num-classes.")
    channels = input_shape[0] if input_shape else first[1] if first else 3
    return with_usual_side(Guess(arch, channels, last[-1][0]))


def with_usual_side(guess: Guess) -> Guess:
    usual = 32 if user.is_user_network(guess.arch) else resolve(guess.arch).side
    return guess._replace(side=guess.side or usual)


def recognised(shapes: Shapes, input_shape: Shape | None) -> Guess:
    """The one network that these names and shapes fit."""
    guesses = [guess for family in FAMILIES for guess in load(family).recognise(shapes)]
    fitting = [guess for guess in guesses if not misfits(guess, shapes, None)]
    if not fitting:
        raise UsageError(nothing_fits(guesses, shapes))
    if input_shape is not None:
        taking = [guess for guess in fitting if not misfits(guess, shapes, input_shape)]
        if not taking:
            wanted = " or ".join(
                f"{g.arch} takes {g.channels}x{g.side}x{g.side}" for g in map(with_usual_side, fitting)
            )
            given = "x".join(str(value) for value in input_shape)
            raise UsageError(
                f"The images are {given} (C, H, W), but {wanted}. Convert them with --image-size and --channels."
            )
        side = math.sqrt(input_shape[1] * input_shape[2])
        nearest = min(abs(math.log(side / (with_usual_side(guess).side or 32))) for guess in taking)
        fitting = [g for g in taking if abs(math.log(side / (with_usual_side(g).side or 32))) == nearest]
    if len(fitting) > 1:
        names = " and ".join(guess.arch for guess in fitting)
        raise UsageError(
            f"The file fits {names} equally well. Choose one with --arch, for instance --arch {fitting[0].arch}."
        )
    return with_usual_side(fitting[0])


def misfits(guess: Guess, shapes: Shapes, input_shape: Shape | None) -> list[str]:
    """What keeps the tensors from being this network for such images (None: for its own usual images)."""
    side = with_usual_side(guess).side or 32
    channels, height, width = input_shape or (guess.channels, side, side)
    inputs = InputSpec(channels, height, width, (0.0,) * channels, (1.0,) * channels)
    names = rename(list(shapes), guess.arch)
    try:
        with torch.device("meta"):
            net = bare(ModelSpec(guess.arch, guess.num_classes, inputs)).net
    except UsageError as error:
        return [str(error)]
    return differences(net, {new: shapes[old] for old, new in names.items()})


def nothing_fits(guesses: list[Guess], shapes: Shapes) -> str:
    """The message for tensors that are no network of the zoo: what comes near, and the ways out."""
    first = ", ".join(f"{key} {list(shape)}" for key, shape in list(shapes.items())[:3])
    if guesses:
        problems = {guess.arch: misfits(guess, shapes, None) for guess in guesses}
        near = "; ".join(f"{arch}, but {found[0]}" for arch, found in problems.items())
        near = f" Nearest: {near}."
    else:
        shared = {name: overlap(name, shapes) for name in ARCHITECTURES}
        close = [name for name in sorted(shared, key=lambda name: -shared[name])[:3] if shared[name] > ALIKE]
        near = f" Nearest by names of tensors: {', '.join(close)}." if close else ""
    return (
        f"The {len(shapes)} tensors ({first}, …) match no network that edgekd knows.{near} Name one with "
        "--arch (`edgekd list models`), or your own with --arch package.module:callable."
    )


def overlap(name: str, shapes: Shapes) -> float:
    """Share of tensor names that a file and a network have in common."""
    with torch.device("meta"):
        wanted = set(bare(ModelSpec(name, 10, usual_input(resolve(name)))).net.state_dict())
    have = set(rename(list(shapes), name).values())
    return len(wanted & have) / len(wanted | have)
