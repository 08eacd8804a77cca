"""What the layers of an engine compute in, as TensorRT's inspector tells it.

Its JSON is not documented and differs between versions; what is not understood is left out, and said to be unknown.
"""

from __future__ import annotations

import json
from typing import Any

NAMES = (("int8", "int8"), ("fp16", "fp16"), ("half", "fp16"), ("bf16", "bf16"), ("fp32", "fp32"), ("float", "fp32"))
# Parts of the types of layers that multiply. Names tell nothing: a copy is named after the layer that it is made for.
PRODUCTS = ("conv", "gemm", "matrixmultiply", "matmul", "fullyconnected")
MOVES = ("reformat", "noop", "constant")  # types of layers that compute nothing


def precisions(text: str) -> dict[str, int]:
    """Layers that compute per precision, by the type of their first input, and under "int8 products" and "products" those that multiply.

    Empty where the inspector says nothing of types.
    """
    try:
        layers = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return {}
    counts: dict[str, int] = {}
    for layer in layers if isinstance(layers, list) else []:
        kind = _precision(layer)
        if kind is None:
            continue
        types = [str(layer.get(key, "")).lower() for key in ("LayerType", "ParameterType")]
        if any(word in MOVES for word in types):
            continue
        counts[kind] = counts.get(kind, 0) + 1
        if any(word in what for word in PRODUCTS for what in types):
            counts["products"] = counts.get("products", 0) + 1
            counts["int8 products"] = counts.get("int8 products", 0) + (kind == "int8")
    return counts


def _precision(layer: Any) -> str | None:
    """The precision of one layer; None where it says none."""
    inputs = layer.get("Inputs") if isinstance(layer, dict) else None
    if not isinstance(inputs, list) or not inputs or not isinstance(inputs[0], dict):
        return None
    said = " ".join(str(inputs[0].get(key, "")) for key in ("Datatype", "Format/Datatype", "Format")).lower()
    return next((ours for theirs, ours in NAMES if theirs in said), None)


def sentence(counts: dict[str, int]) -> str:
    """``3 layers in fp16, 21 in int8``, or that it is not known."""
    kinds = [f"{counts[name]} in {name}" for name in ("int8", "fp16", "bf16", "fp32") if counts.get(name)]
    return "layers: " + ", ".join(kinds) if kinds else "the layers' precisions are not known"
