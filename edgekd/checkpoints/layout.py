"""Finds the state dict inside what people save, and says what was taken off."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnsafeInput, UsageError
from . import limits
from .tensors import Tensor
from .wording import printable

# in the order of preference when a file holds several
WRAPPINGS = (
    "state_dict",
    "model_state_dict",
    "net",
    "model",
    "model_state",
    "model_dict",
    "net_state_dict",
    "network",
    "weights",
    "params",
    "student",
    "student_state_dict",
    "ema",
    "ema_state_dict",
    "model_ema",
    "state_dict_ema",
    "teacher",
)
# training leftovers by part of their name: never taken for weights
BESIDE = ("optim", "sched", "scaler", "rng", "callbacks", "loops")
# what wrappers put before every key; `features.` or `layers.` belong to the network and stay
PREFIXES = ("module", "_orig_mod", "model", "net", "network", "student", "teacher", "ema", "backbone", "base_model")
KEY = re.compile(r"[A-Za-z0-9_.:/-]{1,256}")


@dataclass
class Found:
    """Tensors by name, what stood around them, and the plain values beside them."""

    tensors: dict[str, Tensor]
    layout: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def find(tree: Any) -> Found:
    """The state dict in ``tree``; raises UsageError when there is none or when several could be meant."""
    taken: list[str] = []
    metadata: dict[str, Any] = {}
    warnings: list[str] = []
    while not (isinstance(tree, dict) and _is_state_dict(tree)):
        if len(taken) >= limits.NESTING:
            raise UsageError(
                f"Its weights are nested more than {limits.NESTING} levels deep. Save model.state_dict() alone."
            )
        _keep_plain(tree, metadata)
        name, tree, others = _descend(tree)
        taken.append(name)
        if others:
            warnings.append(f"It also holds weights under {', '.join(others)}; those under {name} were taken.")
    _keep_plain(tree, metadata)
    tensors = {name: value for name, value in tree.items() if isinstance(value, Tensor)}
    tensors, prefixes = strip(_named(tensors))
    return Found(tensors, (*taken, *prefixes), metadata, tuple(warnings))


def _is_state_dict(tree: dict[Any, Any]) -> bool:
    """Tensors directly inside, and no wrapping beside them that holds more of them."""
    own = sum(isinstance(value, Tensor) for value in tree.values())
    inner = [value for key, value in tree.items() if key in WRAPPINGS and isinstance(value, dict)]
    return own > 0 and all(sum(isinstance(v, Tensor) for v in value.values()) < own for value in inner)


def _descend(tree: Any) -> tuple[str, Any, list[str]]:
    """The name and content of the entry to look into, and the names of the others that hold weights."""
    if isinstance(tree, Tensor):
        raise UsageError("It holds one tensor without a name, not the weights of a network.")
    barren: set[int] = set()
    candidates = [(name, value) for name, value in _entries(tree) if _holds_tensors(value, barren)]
    named = dict(candidates)
    for name in WRAPPINGS:
        if name in named:
            return name, named[name], [printable(other, 40) for other in named if other != name]
    if not candidates:
        raise UsageError("It holds no tensors. Save model.state_dict() of the trained network.")
    if len(candidates) > 1:
        names = ", ".join(printable(name, 40) for name, _ in candidates[:6])
        raise UsageError(f"It holds several sets of weights ({names}). Save only the one that you mean.")
    return printable(candidates[0][0], 60), candidates[0][1], []


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if not any(word in str(key).lower() for word in BESIDE):
                yield str(key), value
    elif isinstance(tree, (list, tuple)):
        yield from ((f"[{index}]", value) for index, value in enumerate(tree))


def _holds_tensors(tree: Any, barren: set[int]) -> bool:
    """Whether a dict with tensors lies anywhere in ``tree``; ``barren`` collects the ids of what holds none."""
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, (dict, list, tuple)) or id(node) in seen or id(node) in barren:
            continue
        seen.add(id(node))
        values = node.values() if isinstance(node, dict) else node
        if isinstance(node, dict) and any(isinstance(value, Tensor) for value in values):
            return True
        waiting.extend(values)
    barren |= seen
    return False


def _keep_plain(tree: Any, metadata: dict[str, Any]) -> None:
    """Add the finite numbers and short texts of ``tree`` to ``metadata``."""
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if len(metadata) >= limits.METADATA_ENTRIES:
            return
        kept = plain(value)
        if isinstance(key, str) and kept is not None:
            metadata.setdefault(printable(key, 64), kept)


def plain(value: Any) -> Any:
    """``value`` if it is a number or a text fit for JSON (texts shortened), else None."""
    if isinstance(value, str):
        return printable(value, limits.METADATA_CHARACTERS)
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else None


def _named(tensors: dict[Any, Tensor]) -> dict[str, Tensor]:
    if len(tensors) > limits.TENSORS:
        raise UnsafeInput(f"It holds {len(tensors)} tensors; more than {limits.TENSORS} are not read.")
    for name in tensors:
        if not isinstance(name, str) or not KEY.fullmatch(name):
            raise UsageError(f"A tensor is called {printable(name, 60)!r}; names are letters, digits and ._:/- .")
    return tensors


def strip(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Take off the prefixes that wrappers put before every key, and torch.compile's inside; say which."""
    taken: list[str] = []
    again = True
    while again:
        again = False
        for prefix in PREFIXES:
            dotted = prefix + "."
            if tensors and all(name.startswith(dotted) and len(name) > len(dotted) for name in tensors):
                tensors = {name[len(dotted) :]: tensor for name, tensor in tensors.items()}
                taken.append(dotted)
                again = True
    if any("._orig_mod." in name for name in tensors):
        renamed = {name.replace("._orig_mod.", "."): tensor for name, tensor in tensors.items()}
        if len(renamed) != len(tensors):
            raise UsageError("Names collide once torch.compile's _orig_mod is removed. Save the network uncompiled.")
        tensors = renamed
        taken.append("_orig_mod.")
    return tensors, taken
