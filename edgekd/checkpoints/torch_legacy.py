"""Files of torch.save before 1.6: five pickles in a row, then the storages' bytes."""

from __future__ import annotations

import struct
from typing import Any

from ..errors import UnsafeInput, UsageError
from .opcodes import PLAIN, STRINGS_2, Rules, read
from .torch_values import Storages
from .wording import DAMAGED

MAGIC = 0x1950A86A20F9469CFC6C
MAGIC_BYTES = MAGIC.to_bytes(10, "little")
_PLAIN_RULES = Rules(
    PLAIN
    | STRINGS_2
    | frozenset("PROTO FRAME EMPTY_DICT EMPTY_LIST MARK BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE".split())
    | frozenset("SETITEM SETITEMS APPEND APPENDS STOP".split()),
    {},
)


def read_legacy(data: bytes) -> Any:
    """The pickled tree, its tensors as descriptions with their bytes; raises UnsafeInput and UsageError."""
    magic, position = read(data, _PLAIN_RULES)
    version, position = read(data, _PLAIN_RULES, position)
    if magic != MAGIC or version != 1001:
        raise UsageError(f"It is not a torch.save file. {DAMAGED}")
    system, position = read(data, _PLAIN_RULES, position)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UsageError("It was saved on a big-endian machine, which is not read.")
    storages = Storages()
    tree, position = read(data, storages.rules(), position)
    keys, position = read(data, _PLAIN_RULES, position)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UsageError(f"Its list of storages is malformed. {DAMAGED}")
    if len(set(keys)) != len(keys) or set(keys) != set(storages.found):
        raise UnsafeInput("Its list of storages is not the one that its pickle uses: the file contradicts itself.")
    view = memoryview(data)
    for key in keys:
        if position + 8 > len(data):
            raise UsageError(f"It ends before its last tensor. {DAMAGED}")
        (numel,) = struct.unpack_from("<q", data, position)
        storage = storages.found[key]
        if numel != storage.numel:
            raise UnsafeInput(f"A storage has {numel} items where the pickle claims {storage.numel}: the file lies.")
        end = position + 8 + storage.nbytes
        if end > len(data):
            raise UsageError(f"It ends inside a tensor. {DAMAGED}")
        storage.fill(view[position + 8 : end])
        position = end
    if position != len(data):
        raise UnsafeInput(f"{len(data) - position} bytes follow its last tensor: something is hidden there.")
    return tree
