"""Weights of our own: a safetensors file and, beside it, a JSON sidecar that says what they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..errors import UsageError
from .intake import check_numbers, load, read_once
from .limits import Limits
from .safetensors_header import read_header

if TYPE_CHECKING:
    import torch

SCHEMA = 1
SUFFIX = ".safetensors"


def sidecar_of(path: str | Path) -> Path:
    """Where the sidecar of the weights at ``path`` lies."""
    return Path(f"{path}.json")


def save(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any], name: str = "weights"
) -> str:
    """Write ``tensors`` and a sidecar with ``metadata`` (JSON values), atomically; returns the weights' SHA-256.

    The same tensors give the same bytes. ``name`` is the fault point's. Raises EnvironmentFault when the disk is full.
    """
    data, record = _encoded(tensors, metadata)
    files.write_bytes(path, data, name)
    files.write_json(sidecar_of(path), record, name + "_sidecar")
    return str(record["sha256"])


def _encoded(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """The weights' bytes and their sidecar."""
    import safetensors.torch

    # clones: two names may share one storage, which the library refuses to write
    plain = {key: tensors[key].detach().cpu().contiguous().clone() for key in sorted(tensors)}
    data = safetensors.torch.save(plain)
    sha256 = hashlib.sha256(data).hexdigest()
    entries, _, _ = read_header(data)
    return data, {
        "schema": SCHEMA,
        "sha256": sha256,
        "tensors": {key: {"dtype": dtype, "shape": list(shape)} for key, (dtype, shape, _, _) in entries.items()},
        "metadata": dict(metadata),
    }


def digest(path: str | Path) -> str:
    """SHA-256 of the file at ``path``; raises UsageError when it is not a readable regular file."""
    return hashlib.sha256(read_once(path, Limits())[1]).hexdigest()


def load_sidecar(path: str | Path) -> dict[str, Any] | None:
    """The record beside the weights at ``path``, None where there is none.

    Raises UsageError when it is not one of edgekd, is newer than this version, or describes other weights.
    """
    beside = sidecar_of(path)
    if not beside.exists():
        return None
    record = files.read_json(beside)
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise UsageError(f"{beside}: is not a sidecar file of edgekd. Move it away.")
    if record["schema"] > SCHEMA:
        raise UsageError(f"{beside}: has schema {record['schema']}, newer than {SCHEMA}. Upgrade edgekd.")
    if not isinstance(record.get("metadata"), dict):
        raise UsageError(f"{beside}: is not a sidecar file of edgekd. Move it away.")
    if record.get("sha256") != digest(path):
        raise UsageError(f"{beside}: does not describe the weights in {path}. Make both again.")
    return record


def load_student(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata that `save` wrote; no child process: safetensors holds numbers alone and these are ours.

    Raises UsageError when the sidecar is missing or of other weights, UsageError or UnsafeInput for a damaged file.
    """
    import safetensors.torch

    name, data = read_once(path, Limits())
    record = load_sidecar(path)
    if record is None:
        raise UsageError(
            f"{name}: has no sidecar file {sidecar_of(path).name}, so edgekd cannot tell which network it is. Put "
            "the sidecar back beside it."
        )
    read_header(data)
    tensors = safetensors.torch.load(data)
    check_numbers(tensors, name)
    return tensors, record["metadata"]


def convert(source: str | Path, destination: str | Path) -> Path:
    """Write the weights of any accepted file as safetensors with a sidecar; returns the path.

    ``destination`` is a .safetensors file or a folder. The sidecar holds the source's name and hash, its layout and the
    plain values found beside the weights. Raises what `load` raises, UsageError for an ONNX graph or a bad destination:
    one that is not there to be written into, or that holds anything but what would be written.
    """
    destination = Path(destination)
    if destination.is_dir():
        destination = destination / (Path(source).stem + SUFFIX)
    if destination.suffix != SUFFIX:
        raise UsageError(f"{destination}: the destination must end in {SUFFIX} or be a folder.")
    if destination.exists() and Path(source).exists() and destination.samefile(source):
        raise UsageError(f"{destination}: is the source itself. Choose another destination.")
    if not destination.parent.is_dir():
        raise UsageError(f"{destination.parent}: is not a folder. Make it first, or choose another destination.")
    checkpoint = load(source)
    if checkpoint.format == "onnx":
        raise UsageError(f"{source}: is an ONNX graph, which edgekd reads as it is: it has no state dict to convert.")
    metadata = {
        "source": {"file": Path(source).name, "sha256": checkpoint.sha256, "format": checkpoint.format},
        "layout": list(checkpoint.layout),
        "beside": checkpoint.metadata,
        "warnings": list(checkpoint.warnings),
    }
    data, record = _encoded(checkpoint.tensors, metadata)
    _refuse_other(destination, data)
    _refuse_other(sidecar_of(destination), files.json_bytes(record))
    save(destination, checkpoint.tensors, metadata)
    return destination


def _refuse_other(file: Path, data: bytes) -> None:
    """Raise UsageError where something lies at ``file`` that is not ``data``."""
    if os.path.lexists(file) and not (
        file.is_file() and file.stat().st_size == len(data) and file.read_bytes() == data
    ):
        raise UsageError(
            f"{file}: already exists and holds something else. Choose another destination, or move it away."
        )
