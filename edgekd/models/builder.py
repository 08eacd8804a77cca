"""A spec becomes a model: built, seeded or filled from a file's tensors, and hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..types import InputSpec, Model, ModelSpec
from . import user
from .registry import resolve
from .wrap import Network

SHOWN = 5  # keys that an error names


def build(spec: ModelSpec, tensors: Mapping[str, Tensor] | None = None, *, seed: int = 0) -> Model:
    """The model of a spec, in eval mode, float32, on the CPU.

    tensors: name -> weights of a file; keys that the network does not use are dropped and listed. None: fresh weights
    from ``seed``, without touching the global random state. Raises UsageError for missing or mis-shaped tensors.
    """
    network = bare(spec, seed)
    dropped: tuple[str, ...] = ()
    if tensors is not None:
        chosen, dropped = choose(network.net, tensors, spec.arch)
        problems = differences(network.net, {key: tuple(value.shape) for key, value in chosen.items()})
        if problems:
            raise UsageError(
                f"The file is not {spec.arch} of {spec.num_classes} classes for {shape_text(spec.input)} images: "
                f"{listed(problems)}. Name its architecture with --arch (`edgekd list models`), or your own network as "
                "package.module:callable."
            )
        # batch counters are missing in old files and have no part in inference
        network.net.load_state_dict(chosen, strict=False)
    if user.is_user_network(spec.arch):
        check_output(network, spec)
    network.eval()
    return Model(spec, network, weights_sha256(network.net.state_dict()), dropped)


def bare(spec: ModelSpec, seed: int = 0) -> Network:
    """The wrapped network with fresh, seeded weights."""
    if len(spec.input.mean) != spec.input.channels or len(spec.input.std) != spec.input.channels:
        raise UsageError(f"A network of {spec.input.channels} channels needs as many means and standard deviations.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if user.is_user_network(spec.arch):
            net = user.network(spec.arch, spec.input.shape, spec.num_classes)
        else:
            net = resolve(spec.arch).network(spec.input.shape, spec.num_classes)
            initialise(net)
    return Network(net, spec.input)


def initialise(net: nn.Module) -> None:
    """Convolutions as in He et al. 2015 (arXiv 1502.01852), fan-out; zero biases; the rest as torch makes it."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def choose(net: nn.Module, tensors: Mapping[str, Tensor], arch: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The file's tensors under the network's names, and the keys that it has no use for."""
    wanted = net.state_dict().keys()
    names = rename(list(tensors), arch)
    chosen = {new: tensors[old] for old, new in names.items() if new in wanted}
    used = {old for old, new in names.items() if new in wanted}
    return chosen, tuple(key for key in tensors if key not in used)


def rename(keys: list[str], arch: str) -> dict[str, str]:
    """File key -> network key, by the family's table; a key that is already right wins over one that becomes it."""
    patterns = () if user.is_user_network(arch) else resolve(arch).keys
    taken = set(keys)
    names = {}
    for key in keys:
        new = key
        for pattern, replacement in patterns:
            match = re.match(pattern, key)
            if match:
                new = match.expand(replacement) + key[match.end() :]
                break
        if new != key and new in taken:
            new = key
        taken.add(new)
        names[key] = new
    return names


def differences(net: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What is missing or mis-shaped, one phrase per tensor of the network."""
    found = []
    for key, tensor in net.state_dict().items():
        if key in shapes:
            if shapes[key] != tuple(tensor.shape):
                found.append(f"{key} is {list(shapes[key])}, expected {list(tensor.shape)}")
        elif not key.endswith("num_batches_tracked"):
            found.append(f"{key} is missing")
    return found


def listed(problems: list[str]) -> str:
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more


def shape_text(inputs: InputSpec) -> str:
    return "x".join(str(value) for value in inputs.shape)


@torch.no_grad()
def check_output(network: Network, spec: ModelSpec) -> None:
    """One grey image through a user's network: raises UsageError unless logits [1, K] come out."""
    network.eval()
    try:
        logits = network(torch.full((1, *spec.input.shape), 0.5))
    except Exception as error:  # whatever a stranger's forward raises
        raise UsageError(
            f"{spec.arch} fails on a {shape_text(spec.input)} image: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (1, spec.num_classes):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(f"{spec.arch} must return logits [B, {spec.num_classes}]; for one image it returned {got}.")


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, in the order of their names."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights(model: Model) -> dict[str, Tensor]:
    """Weights under the network's own names, contiguous on the CPU: what is saved, and what ``build`` takes again."""
    assert isinstance(model.module, Network)
    state = model.module.net.state_dict()
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def with_input(spec: ModelSpec, inputs: InputSpec) -> ModelSpec:
    """The spec with another input: size, channels or normalisation."""
    return dataclasses.replace(spec, input=inputs)


def renormalise(model: Model, inputs: InputSpec) -> Model:
    """The same network, weights shared, behind another normalisation."""
    assert isinstance(model.module, Network)
    module = Network(model.module.net, inputs)
    return dataclasses.replace(model, spec=with_input(model.spec, inputs), module=module.eval())
