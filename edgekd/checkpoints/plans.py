"""`graph_plan`: what an ONNX graph takes to run on images of one shape, worked out in the child."""

from __future__ import annotations

import hashlib
from typing import Any

from ..errors import UnsafeInput
from . import sandbox
from .onnx_sizes import BATCHES, Plan

_KEPT = 8
_plans: dict[tuple[str, tuple[int, ...] | None], Plan] = {}


def graph_plan(data: bytes, name: str, shape: tuple[int, ...] | None = None) -> Plan:
    """The plan for the graph ``data``, called ``name`` in messages, and images of ``shape`` (C, H, W), else its own.

    Without a shape a graph that leaves its image size free has no batches. Raises UnsafeInput for a graph that takes
    too much, UsageError for one whose sizes cannot be known; see onnx_sizes.
    """
    key = (hashlib.sha256(data).hexdigest(), shape)
    if key not in _plans:
        text = "" if shape is None else ",".join(str(int(size)) for size in shape)
        header, _ = sandbox.run("graph", data, name, ending=text)
        found = [header.get("parameters"), header.get("macs"), *_batches(header.get("batches"))]
        if any(type(value) is not int or value < 0 for value in found):
            raise UnsafeInput(f"{name}: it made the parser answer nonsense, so it is refused. Use another file.")
        if len(_plans) >= _KEPT:
            _plans.clear()
        _plans[key] = Plan(tuple(found[2:]), found[0], found[1])
    return _plans[key]


def _batches(value: Any) -> list[Any]:
    """As many as there may be, the smallest last; anything else becomes what the caller refuses."""
    kept = value if isinstance(value, list) and len(value) <= len(BATCHES) else [None]
    return kept if all(type(size) is int and size > 0 for size in kept) else [None]
