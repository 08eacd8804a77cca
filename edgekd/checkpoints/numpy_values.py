"""Builders for the few numpy values that pickles hold: a scalar beside the weights, the array of a CIFAR batch."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

from ..errors import UnsafeInput, UsageError
from .opcodes import Builder, Global
from .wording import DAMAGED

_SCALARS = {
    "f8": "<d",
    "f4": "<f",
    "f2": "<e",
    "i8": "<q",
    "i4": "<i",
    "i2": "<h",
    "i1": "<b",
    "u8": "<Q",
    "u4": "<I",
    "u2": "<H",
    "u1": "<B",
    "b1": "<?",
}


@dataclass(frozen=True)
class Dtype:
    """A numpy type by its short name, e.g. "f8"."""

    code: str


@dataclass(frozen=True)
class Array:
    """An array of bytes [shape]; ``data`` is empty until its state is set."""

    shape: tuple[int, ...] = ()
    fortran: bool = False
    data: bytes = b""


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value) if isinstance(value, str) else ""


def make_dtype(code: object, align: object = False, copy: object = True) -> Dtype:
    """The type named ``code``; raises UnsafeInput for objects and records."""
    name = _text(code).lstrip("<|=")
    if name not in _SCALARS:
        raise UnsafeInput(f"It holds a numpy value of type {_text(code)[:8]!r}, which is not a plain number.")
    return Dtype(name)


def set_dtype(target: Dtype, state: object) -> Dtype:
    """Check the state that numpy writes behind a type: version, byte order and six empty fields."""
    order = _text(state[1]) if isinstance(state, tuple) and len(state) >= 2 else ""
    if order not in ("<", "|", "="):
        raise UsageError(f"A numpy type is not little-endian. {DAMAGED}")
    return target


def make_scalar(dtype: object, data: object = b"") -> Any:
    """A Python number."""
    if not isinstance(dtype, Dtype) or not isinstance(data, bytes):
        raise UsageError(f"A numpy number is malformed. {DAMAGED}")
    try:
        return struct.unpack(_SCALARS[dtype.code], data)[0]
    except struct.error as error:
        raise UsageError(f"A numpy number is malformed. {DAMAGED}") from error


def encode(text: object, encoding: object = "latin1") -> bytes:
    """Python 3's way of writing bytes for protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UsageError(f"Bytes in the pickle are malformed. {DAMAGED}")
    return text.encode("latin-1")


def make_array(kind: object, shape: object = (0,), code: object = b"b") -> Array:
    """The empty array that numpy fills with a state afterwards."""
    if kind != Global("numpy", "ndarray"):
        raise UnsafeInput("It builds something other than a numpy array.")
    return Array()


def set_array(target: Array, state: object) -> Array:
    """Fill in version, shape, type, order and bytes; only uint8 is read."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise UsageError(f"A numpy array is malformed. {DAMAGED}")
    _, shape, dtype, fortran, data = state
    if dtype != Dtype("u1") or not isinstance(data, bytes):
        raise UnsafeInput("Its array does not hold plain bytes (uint8); batches of CIFAR do.")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise UsageError(f"An array's shape is malformed. {DAMAGED}")
    if math.prod(shape) != len(data):
        raise UnsafeInput(f"An array claims {math.prod(shape)} bytes but holds {len(data)}.")
    return Array(shape, bool(fortran), data)


SCALAR_NAMES: dict[Global, Builder | None] = {
    Global("numpy", "dtype"): make_dtype,
    Global("_codecs", "encode"): encode,
    Global("numpy.core.multiarray", "scalar"): make_scalar,
    Global("numpy._core.multiarray", "scalar"): make_scalar,
}
ARRAY_NAMES: dict[Global, Builder | None] = {
    **SCALAR_NAMES,
    Global("numpy", "ndarray"): None,
    Global("numpy.core.multiarray", "_reconstruct"): make_array,
    Global("numpy._core.multiarray", "_reconstruct"): make_array,
}
