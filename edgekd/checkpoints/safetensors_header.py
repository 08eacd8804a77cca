"""The header of a safetensors file, checked before any library sees it."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

from ..errors import UnsafeInput, UsageError
from . import limits
from .tensors import ITEM_BYTES, Storage, Tensor, refuse_boast
from .wording import DAMAGED, printable


class _Doubled(ValueError):
    pass


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Doubled
    return found


def _contradiction(what: str) -> UnsafeInput:
    return UnsafeInput(
        f"Its safetensors header contradicts itself: {what}. Two readers would see different weights; save it again "
        "with safetensors.torch.save_file."
    )


def read_header(data: bytes) -> tuple[dict[str, tuple[str, tuple[int, ...], int, int]], dict[str, str], int]:
    """Per tensor type, shape, first and last byte; the metadata; where the numbers start.

    Raises UsageError for a damaged or unsupported file, UnsafeInput for one that two readers understand in two ways.
    """
    length = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else 0
    if length > limits.HEADER_BYTES:
        raise UnsafeInput(f"Its safetensors header claims {length} bytes, more than the {limits.HEADER_BYTES} read.")
    if len(data) < 8 or 8 + length > len(data):
        raise UsageError(f"It ends before its header does. {DAMAGED}")
    header = _parse(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise UsageError(f"Its metadata is not a table of texts. {DAMAGED}")
    if len(header) > limits.TENSORS:
        raise UnsafeInput(f"It holds {len(header)} tensors; more than {limits.TENSORS} are not read.")
    entries = {name: _entry(name, value) for name, value in header.items()}
    position = 0
    for _, _, first, last in sorted(entries.values(), key=lambda entry: entry[2:]):
        if first != position:
            raise _contradiction("its tensors overlap or leave a hole")
        position = last
    rest = len(data) - 8 - length - position
    if rest < 0:
        raise UsageError(f"It ends {-rest} bytes before its last tensor does. {DAMAGED}")
    if rest:
        raise _contradiction(f"{rest} bytes follow its last tensor")
    return entries, metadata, 8 + length


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_doubles)
    except _Doubled:
        raise _contradiction("a name appears twice") from None
    except RecursionError:
        raise _contradiction("it is nested too deeply") from None
    except ValueError as error:
        raise UsageError(f"Its header is not JSON ({printable(error, 60)}). {DAMAGED}") from error
    if not isinstance(header, dict):
        raise UsageError(f"Its header is not a table. {DAMAGED}")
    return header


def _entry(name: str, value: Any) -> tuple[str, tuple[int, ...], int, int]:
    shown = printable(name)
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise UsageError(f"The entry of tensor {shown!r} is malformed. {DAMAGED}")
    dtype, shape, span = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise UsageError(f"Tensor {shown!r} has the type {printable(dtype, 20)}, which is not read; save float32.")
    if not isinstance(shape, list) or len(shape) > limits.RANK or not all(_whole(size) for size in shape):
        raise UsageError(f"The shape of tensor {shown!r} is malformed. {DAMAGED}")
    if not isinstance(span, list) or len(span) != 2 or not all(type(byte) is int and byte >= 0 for byte in span):
        raise UsageError(f"The place of tensor {shown!r} is malformed. {DAMAGED}")
    if span[1] - span[0] != math.prod(shape) * ITEM_BYTES[dtype]:
        raise _contradiction(f"tensor {shown!r} has {span[1] - span[0]} bytes for the shape {shape} of {dtype}")
    refuse_boast(shape)
    return dtype, tuple(shape), span[0], span[1]


def _whole(size: Any) -> bool:
    return type(size) is int and 0 <= size <= limits.DIMENSION


def read_safetensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors as descriptions with their bytes, and the metadata."""
    entries, metadata, start = read_header(data)
    view = memoryview(data)[start:]
    tensors = {}
    for name, (dtype, shape, first, last) in entries.items():
        storage = Storage(dtype, math.prod(shape), view[first:last])
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        tensors[name] = Tensor(storage, 0, shape, strides)
    return tensors, metadata
