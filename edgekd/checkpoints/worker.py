"""The child: gives up its rights, reads one file from its standard input, answers on its standard output, ends.

Answer: one byte ``R`` once it is confined; then 8 bytes of length, a JSON header, and the numbers as a safetensors file
or as plain bytes. A refusal is a header with ``refused`` (unsafe | usage) and a message without the file's name.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable
from typing import Any, BinaryIO

from ..errors import EdgekdError, UnsafeInput, UsageError
from .layout import find, plain
from .limits import METADATA_ENTRIES
from .tensors import pack
from .wording import WAY_OUT, printable

Answer = tuple[dict[str, Any], Iterable[bytes | memoryview]]


def teacher(data: bytes, ending: str, budget: int) -> Answer:
    """A network's file: its tensors as a safetensors file of at most ``budget`` bytes, or an ONNX graph's facts."""
    from .kinds import kind_of

    kind = kind_of(data, ending)
    if kind == "onnx":
        from . import onnx_check, onnx_sizes

        model, facts = onnx_check.read(data)
        onnx_sizes.plan(model)
        return {"format": kind, "layout": [], "metadata": facts, "warnings": []}, []
    if kind == "safetensors":
        from .safetensors_header import read_safetensors

        tensors, texts = read_safetensors(data)
        kept = {printable(name, 64): plain(text) for name, text in list(texts.items())[:METADATA_ENTRIES]}
        found = find(tensors)
        found.metadata.update(kept)
    elif kind == "torch-zip":
        from .torch_zip import read_zip

        found = find(read_zip(data))
    else:
        from .torch_legacy import read_legacy

        found = find(read_legacy(data))
    header = {
        "format": kind,
        "layout": list(found.layout),
        "metadata": found.metadata,
        "warnings": list(found.warnings),
    }
    return header, list(pack(found.tensors, budget))


def cifar(data: bytes, ending: str, budget: int) -> Answer:
    """A CIFAR batch of the Python release: labels in the header, images as plain bytes."""
    from .numpy_batches import read_batch

    labels, shape, images = read_batch(data)
    return {"labels": labels, "shape": list(shape)}, [images]


def graph(data: bytes, shape: str, budget: int) -> Answer:
    """What an ONNX graph takes to run on images of ``shape``, "C,H,W", or of its own input's where that is empty."""
    from . import onnx_check, onnx_sizes

    model, _ = onnx_check.read(data)
    found = onnx_sizes.plan(model, [int(size) for size in shape.split(",")] if shape else None)
    return {"batches": list(found.batches), "parameters": found.parameters, "macs": found.macs}, []


JOBS = {"teacher": teacher, "cifar": cifar, "graph": graph}


def answer(job: str, data: bytes, ending: str, budget: int) -> Answer:
    """What the child says about ``data``; every failure becomes a refusal."""
    try:
        return JOBS[job](data, ending, budget)
    except (UnsafeInput, UsageError) as error:
        return _refusal(error), []
    except MemoryError:
        return _refusal(UnsafeInput("Reading it needs more memory than its size allows.")), []
    except Exception as error:  # the parsers raise only the above: what else comes out is an attack or our bug
        return _refusal(UnsafeInput(f"It broke the reader ({type(error).__name__}). {WAY_OUT}")), []


def _refusal(error: EdgekdError) -> dict[str, Any]:
    return {"refused": "unsafe" if isinstance(error, UnsafeInput) else "usage", "message": str(error)}


def send(out: BinaryIO, header: dict[str, Any], pieces: Iterable[bytes | memoryview]) -> None:
    """Write one answer."""
    text = json.dumps(header, allow_nan=False).encode("ascii")
    out.write(struct.pack("<Q", len(text)) + text)
    for piece in pieces:
        out.write(piece)
    out.flush()


def main(arguments: list[str], source: BinaryIO, out: BinaryIO) -> None:
    """Serve one request: job, ending of the file's name (or images' shape), budget, seconds, bytes of memory."""
    from .confine import confine

    job, ending, budget, seconds, memory = arguments
    held = confine(float(seconds), int(memory))
    out.write(b"R")
    out.flush()
    if job == "nothing":
        send(out, {"protections": list(held)}, [])
    else:
        send(out, *answer(job, source.read(), ending, int(budget)))


def serve() -> None:
    """The child's whole life."""
    main(sys.argv[1:], sys.stdin.buffer, sys.stdout.buffer)
