"""Prints what the tensorrt_bindings on the path offer, as JSON: every class with its members and their signatures.

A signature is a list of [name, has a default]; a member without one (a property, a value of an enum) has none.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

SIGNATURE = re.compile(r"^(?:\d+\. )?(\w+)\((.*)\)(?: -> .*)?$")


def signatures(value: Any) -> list[list[list[Any]]]:
    """Every overload that the docstring of a function or method names."""
    found = []
    for line in (getattr(value, "__doc__", None) or "").splitlines():
        match = SIGNATURE.match(line.strip())
        if match and match.group(1) == getattr(value, "__name__", "") and not match.group(2).startswith("*args"):
            found.append(parameters(match.group(2)))
    return found


def parameters(text: str) -> list[list[Any]]:
    """[name, has a default] of each parameter but self; commas within brackets part nothing."""
    parts, depth, start = [], 0, 0
    for k, letter in enumerate(text):
        depth += (letter in "[(<{") - (letter in "])>}")
        if letter == "," and depth == 0:
            parts.append(text[start:k])
            start = k + 1
    parts.append(text[start:])
    named = [(part.split(":")[0].split("=")[0].strip(), "=" in part) for part in parts if part.strip()]
    return [[name, default] for name, default in named if name not in ("self", "/", "*")]


def described(kind: Any) -> dict[str, Any]:
    return {name: signatures(getattr(kind, name, None)) for name in dir(kind)}


def main() -> None:
    import tensorrt_bindings as trt

    classes = {}
    for name in dir(trt):
        value = getattr(trt, name)
        if isinstance(value, type):
            classes[name] = described(value)
            for inner in dir(value):
                if isinstance(getattr(value, inner), type) and not inner.startswith("_"):
                    classes[f"{name}.{inner}"] = described(getattr(value, inner))
    json.dump({"version": trt.__version__, "module": described(trt), "classes": classes}, sys.stdout)


if __name__ == "__main__":
    main()
