"""Tensors as descriptions: a storage, an offset, a shape and strides, all of them claims of the file until checked."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import UnsafeInput, UsageError
from . import limits
from .wording import DAMAGED, printable

# safetensors' names for the types; complex, 8-bit float and quantised types are not read
ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass
class Storage:
    """A flat array in the file; ``data`` is filled once its bytes are found."""

    dtype: str
    numel: int
    data: memoryview | None = None

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_BYTES[self.dtype]

    def fill(self, data: memoryview) -> None:
        """Take ``data`` as the content; raises UnsafeInput when the size is not the one that the pickle claims."""
        if len(data) != self.nbytes:
            raise UnsafeInput(
                f"A storage holds {len(data)} bytes where the pickle claims {self.numel} items of {self.dtype}: it "
                "was made to trick a reader into reading outside its data."
            )
        self.data = data


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count items."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_BYTES[self.storage.dtype]

    @property
    def contiguous(self) -> bool:
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and step != expected:
                return False
            expected *= size
        return True

    def content(self) -> memoryview | bytes:
        """The items in row-major order, little-endian; raises UsageError when the storage's bytes are missing."""
        if self.storage.data is None:
            raise UsageError(f"A tensor's numbers are missing from the file. {DAMAGED}")
        width = ITEM_BYTES[self.storage.dtype]
        if self.contiguous or not self.numel:
            found: memoryview | bytes = self.storage.data[self.offset * width : self.offset * width + self.nbytes]
        else:
            found = self._gathered(width)
        if self.storage.dtype == "BOOL" and bytes(found).translate(None, b"\0\1"):
            raise UsageError(f"A tensor of true and false holds other values. {DAMAGED}")
        return found

    def _gathered(self, width: int) -> bytes:
        import numpy as np  # only transposed and expanded tensors need it, and it costs a tenth of a second

        items = np.frombuffer(self.storage.data, dtype=f"<u{width}")[self.offset :]  # type: ignore[arg-type]
        steps = tuple(step * width for step in self.stride)
        return np.lib.stride_tricks.as_strided(items, self.shape, steps, writeable=False).tobytes()


def checked(storage: object, offset: object, shape: object, stride: object) -> Tensor:
    """A tensor whose every item lies inside its storage.

    Raises UsageError for a malformed description, UnsafeInput for one that reaches outside the storage.
    """
    if not isinstance(storage, Storage) or type(offset) is not int:
        raise UsageError(f"A tensor has no storage. {DAMAGED}")
    sizes, steps = _whole_numbers(shape), _whole_numbers(stride)
    if len(sizes) != len(steps):
        raise UsageError(f"A tensor's shape and strides differ in length. {DAMAGED}")
    refuse_boast(sizes)
    extent = 1 + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True)) if all(sizes) else 0
    if offset < 0 or offset + extent > storage.numel:
        raise UnsafeInput(
            f"A tensor of shape {list(sizes)} reaches outside its storage (items {offset} to {offset + extent} of "
            f"{storage.numel}): it was made to trick a reader into reading foreign memory."
        )
    return Tensor(storage, offset, sizes, steps)


def refuse_boast(shape: Sequence[int]) -> None:
    """Raise UnsafeInput for a shape of no numbers whose other sizes are huge: it costs the file nothing, a network much."""
    if 0 in shape and math.prod(size for size in shape if size) > limits.EMPTY:
        raise UnsafeInput(
            f"A tensor of no numbers claims the shape {list(shape)}: it was made to get a huge network built from it."
        )


def _whole_numbers(value: object) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > limits.RANK:
        raise UsageError(f"A tensor's shape is not a list of at most {limits.RANK} numbers. {DAMAGED}")
    for number in value:
        if type(number) is not int or not 0 <= number <= limits.DIMENSION:
            raise UsageError(f"A tensor's shape or stride holds {printable(number)}. {DAMAGED}")
    return tuple(value)


def pack(tensors: Mapping[str, Tensor], budget: int) -> Iterator[memoryview | bytes]:
    """The pieces of a safetensors file with ``tensors``, row-major; raises UnsafeInput beyond ``budget`` bytes."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > budget:
        raise UnsafeInput(
            f"Its tensors would unfold to {total} bytes, more than {budget} for a file of this size: a bomb, "
            "or tensors expanded from a few numbers; save them with .clone()."
        )
    header: dict[str, object] = {}
    position = 0
    for name, tensor in tensors.items():
        span = [position, position + tensor.nbytes]
        header[name] = {"dtype": tensor.storage.dtype, "shape": list(tensor.shape), "data_offsets": span}
        position = span[1]
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for tensor in tensors.values():
        yield tensor.content()
