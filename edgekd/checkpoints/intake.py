"""`load`: one file of a stranger, read once, parsed in a child, checked again here."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnsafeInput, UsageError
from ..types import Checkpoint
from . import sandbox
from .layout import KEY, plain
from .limits import METADATA_ENTRIES, Limits
from .safetensors_header import read_header
from .wording import printable

if TYPE_CHECKING:
    import torch

FORMATS = ("torch-zip", "torch-legacy", "safetensors", "onnx")
_BROKEN = "Take another checkpoint."
LARGE = 1e4  # weights beyond this are legal and rarely meant


def read_once(path: str | Path, limits: Limits) -> tuple[str, bytes]:
    """The name for messages and the bytes of a regular file; hash and parse these, never the path again.

    Symbolic links are followed: data sets and model caches keep files behind them, the user named the path, and what is
    opened is checked to be a regular file by its descriptor, so that swapping the link changes nothing afterwards.
    Raises UsageError for anything that is not a readable regular file within the limit.
    """
    name = printable(path, 4096)
    try:
        # without waiting: a FIFO must not hang us
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise UsageError(f"{name}: there is no such file. Check the path.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"{name}: cannot be opened ({reason}). Check its path and permissions.") from error
    try:
        facts = os.fstat(handle)
        if stat.S_ISDIR(facts.st_mode):
            raise UsageError(f"{name}: is a folder. Name the file inside it.")
        if not stat.S_ISREG(facts.st_mode):
            raise UsageError(f"{name}: is a pipe or a device. Name a regular file.")
        if facts.st_size > limits.file_bytes:
            raise UsageError(f"{name}: has {facts.st_size} bytes; files over {limits.file_bytes} are not read.")
        with open(handle, "rb", closefd=False) as stream:
            data = stream.read(facts.st_size + 1)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror}). Check its disk.") from error
    finally:
        os.close(handle)
    if len(data) != facts.st_size:
        raise UsageError(f"{name}: changed while it was read. Try again when it is complete.")
    if not data:
        raise UsageError(f"{name}: is empty. Fetch it again.")
    return name, data


def load(path: str | Path, *, limits: Limits | None = None) -> Checkpoint:
    """The network's tensors (or ONNX bytes) in the file at ``path``, with its hash and what was taken off.

    torch state dicts (zip and old format), safetensors and ONNX. Nothing of the file is executed. Raises UnsafeInput
    for what could run code or reach outside itself, UsageError for damage and foreign formats.
    """
    limits = limits or Limits()
    name, data = read_once(path, limits)
    header, numbers = sandbox.run("teacher", data, name, ending=Path(path).suffix.lower(), limits=limits)
    if header.get("format") not in FORMATS:
        raise UnsafeInput(f"{name}: it made the parser answer nonsense, so it is refused. Use another file.")
    is_graph = header["format"] == "onnx"
    tensors, warnings = ({}, ()) if is_graph else _tensors(numbers, name)
    return Checkpoint(
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        format=header["format"],
        tensors=tensors,
        onnx=data if is_graph else b"",
        layout=_texts(header.get("layout")),
        metadata=_metadata(header.get("metadata"), deep=is_graph),
        warnings=_texts(header.get("warnings")) + warnings,
    )


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(printable(text, 400) for text in value) if isinstance(value, list) else ()


def _metadata(value: Any, deep: bool) -> dict[str, Any]:
    """Plain values only, a second time; an ONNX graph's facts are tables of them."""
    if not isinstance(value, dict):
        return {}
    kept: dict[str, Any] = {}
    for key, item in list(value.items())[: 4 * METADATA_ENTRIES]:
        if deep and isinstance(item, dict):
            kept[printable(key, 64)] = _metadata(item, deep=True)
        elif deep and isinstance(item, list):
            kept[printable(key, 64)] = [plain(entry) for entry in item]
        elif plain(item) is not None:
            kept[printable(key, 64)] = plain(item)
    return kept


def _tensors(numbers: bytes, name: str) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The child's safetensors bytes as tensors, all checks done again on this side; and warnings."""
    import safetensors.torch

    try:
        entries, _, _ = read_header(numbers)
    except (UnsafeInput, UsageError) as error:
        raise UnsafeInput(f"{name}: it made the parser answer nonsense, so it is refused. Use another file.") from error
    if not entries or not all(KEY.fullmatch(key) for key in entries):
        raise UnsafeInput(f"{name}: it made the parser answer nonsense, so it is refused. Use another file.")
    tensors = safetensors.torch.load(numbers)
    return {key: tensors[key] for key in entries}, check_numbers(tensors, name)  # in the file's order


def check_numbers(tensors: dict[str, torch.Tensor], name: str) -> tuple[str, ...]:
    """Warnings, one per tensor with numbers beyond 10,000; raises UsageError for NaN, infinity, negative variances."""
    import torch

    warnings = []
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        least, most = (float(bound) for bound in torch.aminmax(tensor))  # NaN comes through as NaN
        if not (math.isfinite(least) and math.isfinite(most)):
            raise UsageError(f"{name}: tensor {key} holds NaN or infinite numbers; the network is broken. {_BROKEN}")
        if key.endswith("running_var") and least < 0:
            raise UsageError(f"{name}: tensor {key} holds a negative variance; the network is broken. {_BROKEN}")
        if max(-least, most) > LARGE:
            warnings.append(f"Tensor {key} holds numbers up to {max(-least, most):.3g}; trained weights rarely do.")
    return tuple(warnings)
