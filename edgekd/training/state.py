"""Checkpoints of a training run: safetensors and JSON, the last two generations."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from .. import files
from ..errors import UsageError

SCHEMA = 1
KEPT = 2


@dataclass(frozen=True)
class Saved:
    """A checkpoint read back: ``epoch`` epochs are done."""

    epoch: int
    tensors: dict[str, torch.Tensor]
    notes: dict[str, Any]


def write(folder: Path, epoch: int, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]) -> None:
    """Put a checkpoint beside the ones before it, then delete all but the last two.

    The JSON is written last and holds the hash of the tensors: a checkpoint without it, or with another hash, is none.
    """
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    files.write_bytes(folder / f"checkpoint-{epoch}.safetensors", data, "training.checkpoint")
    notes = {**notes, "schema": SCHEMA, "epoch": epoch, "sha256": files.sha256_bytes(data)}
    files.write_json(folder / f"checkpoint-{epoch}.json", notes, "training.notes")
    for old in _epochs(folder)[:-KEPT]:
        for name in (f"checkpoint-{old}.json", f"checkpoint-{old}.safetensors"):
            with contextlib.suppress(OSError):
                (folder / name).unlink()


def read(folder: Path) -> Saved | None:
    """The last whole checkpoint of ``folder``; None where there is none. A damaged one falls back to the one before."""
    for epoch in reversed(_epochs(folder)):
        path = folder / f"checkpoint-{epoch}.safetensors"
        try:
            notes = files.read_json(folder / f"checkpoint-{epoch}.json")
            if notes["schema"] == SCHEMA and notes["sha256"] == files.sha256_file(path):
                return Saved(epoch, load_file(path), notes)
        except (UsageError, OSError, SafetensorError, KeyError, TypeError):
            continue
    return None


def _epochs(folder: Path) -> list[int]:
    names = (re.fullmatch(r"checkpoint-(\d+)\.json", path.name) for path in folder.glob("checkpoint-*.json"))
    return sorted(int(name[1]) for name in names if name)


def collect(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    """Every tensor of a module and of its optimisers, which share no parameter, by name."""
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{key}.{name}"] = value
    return tensors


def restore(
    tensors: Mapping[str, torch.Tensor], module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Put the tensors of ``collect`` back; raises RuntimeError where they are another network's."""
    prefix = "module."
    module.load_state_dict({n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}, strict=True)
    parameters = dict(module.named_parameters())
    home = {p: optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for full_name, tensor in tensors.items():
        if not full_name.startswith("optimizer."):
            continue
        _, key, name = full_name.split(".", 2)
        parameter = parameters[name]
        like = torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor)
        home[parameter].state[parameter][key] = like.copy_(tensor)
