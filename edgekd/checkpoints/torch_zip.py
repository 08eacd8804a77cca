"""Files of torch.save since 1.6: a zip of one pickle and one member per storage."""

from __future__ import annotations

import re
from typing import Any

from ..errors import UnsafeInput, UsageError
from . import limits, zip_members
from .opcodes import read
from .torch_values import Storages
from .wording import DAMAGED, WAY_OUT, printable

_KNOWN = re.compile(r"(data\.pkl|version|byteorder|data/[0-9]{1,20}|\..*)")


def read_zip(data: bytes) -> Any:
    """The pickled tree, its tensors as descriptions with their bytes; raises UnsafeInput and UsageError."""
    entries = zip_members.directory(data)
    root = _root([entry.name for entry in entries])
    found = zip_members.members(data, entries)
    pickle = found[root + "data.pkl"]
    if len(pickle) > limits.PICKLE_BYTES:
        raise UnsafeInput(f"Its pickle has {len(pickle)} bytes; no state dict needs that.")
    if bytes(found.get(root + "byteorder", b"little")) != b"little":
        raise UsageError("It was saved on a big-endian machine, which is not read.")
    storages = Storages()
    tree, end = read(bytes(pickle), storages.rules())
    if end != len(pickle):
        raise UnsafeInput(f"{len(pickle) - end} bytes follow the end of its pickle: something is hidden there.")
    for key, storage in storages.found.items():
        member = found.get(f"{root}data/{key}")
        if member is None:
            raise UsageError(f"The numbers of storage {printable(key)!r} are missing. {DAMAGED}")
        storage.fill(member)
    return tree


def _root(names: list[str]) -> str:
    """The folder that all members lie in, with its slash; raises for containers that are no state dicts."""
    roots = {name.split("/", 1)[0] for name in names}
    inner = [name.split("/", 1)[1] if "/" in name else "" for name in names]
    if any(name == "constants.pkl" or name.startswith("code/") for name in inner):
        raise UnsafeInput(
            "It is TorchScript: a program with its weights. Nothing in it was run. If you trust it, save the weights: "
            'python -c "import sys, torch; torch.save(torch.jit.load(sys.argv[1]).state_dict(), '
            'sys.argv[2])" IN.pt OUT.pt'
        )
    if any(name in ("archive_format", "serialized_exported_program.json") for name in [*inner, *names]):
        raise UnsafeInput(
            "It is an exported program (.pt2), a graph with code paths of its own. Save model.state_dict() with "
            "torch.save or safetensors instead."
        )
    if any(name.startswith((".data/extern_modules", ".data/python_version")) for name in inner):
        raise UnsafeInput(f"It is a torch.package archive: Python code with weights. {WAY_OUT}")
    if "data.pkl" not in inner:
        listed = ", ".join(printable(name, 40) for name in names[:3])
        raise UsageError(f"It is a zip file, but not one from torch.save (it holds {listed or 'nothing'}).")
    if len(roots) != 1:
        raise zip_members.trick("its members lie in several folders")
    for name in inner:
        if name.endswith(".pkl") and name != "data.pkl":
            raise zip_members.trick(f"it holds a second pickle, {printable(name)!r}")
        if not _KNOWN.fullmatch(name):
            raise zip_members.trick(f"it holds {printable(name)!r}, which torch.save does not write")
    return roots.pop() + "/"
