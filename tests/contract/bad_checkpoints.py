"""Hand-made bad checkpoints: one row each, made in code so that no hostile file lies in the repository.

A row: name, maker(folder, canary) -> path, exit code, a word that the message must hold. Where a maker can, its payload
creates the canary file: the test fails if it ever appears.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

Maker = Callable[[Path, Path], Path]


class Row(NamedTuple):
    name: str
    make: Maker
    exit_code: int
    word: str


# ---- pickles ---------------------------------------------------------------------------------------------------------


class Calls:
    """An object whose unpickling calls ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def touch(canary: Path) -> Calls:
    return Calls(os.system, f"touch {canary}")


def dumped(value: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(value, protocol)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", numel: int = 4, kind: str = "torch\nFloatStorage") -> bytes:
    return b"(" + text("storage") + b"c" + kind.encode() + b"\n" + text(key) + text("cpu") + number(numel) + b"tQ"


def tensor(stored: bytes, shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0) -> bytes:
    body = stored + number(offset) + numbers(shape) + numbers(stride) + b"\x89)"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + body + b"tR"


def table(*items: tuple[str, bytes]) -> bytes:
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in items) + b"u."


GOOD = table(("weight", tensor(storage())))
FOUR = struct.pack("<4f", 1, 2, 3, 4)


def members(data: bytes = GOOD, **storages: bytes) -> dict[str, bytes]:
    found = {"a/data.pkl": data, "a/byteorder": b"little", "a/version": b"3\n"}
    stored = {key.removeprefix("s"): value for key, value in storages.items()} or {"0": FOUR}
    return found | {f"a/data/{key}": value for key, value in stored.items()}


def zipped(content: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


def file(make: Callable[[Path], bytes], name: str = "bad.pt") -> Maker:
    """A maker that writes the bytes of ``make(canary)`` to ``name``."""

    def write(folder: Path, canary: Path) -> Path:
        path = folder / name
        path.write_bytes(make(canary))
        return path

    return write


def pickled(make: Callable[[Path], bytes]) -> Maker:
    """A torch zip with the pickle of ``make(canary)`` and one good storage."""
    return file(lambda canary: zipped(members(make(canary))))


def constant(data: bytes, name: str = "bad.pt") -> Maker:
    return file(lambda _: data, name)


def saved(value: Callable[[], Any], name: str = "bad.pt", **options: Any) -> Maker:
    """What torch.save makes of ``value()``."""

    def make(_: Path) -> bytes:
        out = io.BytesIO()
        torch.save(value(), out, **options)
        return out.getvalue()

    return file(make, name)


def state() -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.arange(8.0).reshape(2, 4), "bn.running_var": torch.ones(2)}


def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU())


CODE = [
    Row("calls os.system", pickled(lambda c: dumped({"w": touch(c)})), 3, "posix.system"),
    Row("calls eval", pickled(lambda c: dumped({"w": Calls(eval, f"open({str(c)!r}, 'w')")})), 3, "eval"),
    Row("calls subprocess", pickled(lambda c: dumped(Calls(subprocess.Popen, ["touch", str(c)]))), 3, "Popen"),
    Row("calls through protocol 4", pickled(lambda c: dumped(touch(c), 4)), 3, "posix.system"),
    Row("INST", pickled(lambda c: b"(" + text(f"touch {c}") + b"ios\nsystem\n."), 3, "os system"),
    Row("OBJ", pickled(lambda c: b"\x80\x02(cos\nsystem\n" + text(f"touch {c}") + b"o."), 3, "os.system"),
    Row("NEWOBJ", pickled(lambda c: b"\x80\x02ccollections\nOrderedDict\n)\x81."), 3, "NEWOBJ"),
    Row("EXT1", pickled(lambda c: b"\x80\x02\x82\x01."), 3, "EXT1"),
    Row("text PERSID", pickled(lambda c: b"Psomewhere\n."), 3, "PERSID"),
    Row("reference to a module", pickled(lambda c: b"\x80\x02" + text("module") + b"\x85Q."), 3, "storage"),
    Row(
        "pickle inside the pickle", pickled(lambda c: dumped(Calls(pickle.loads, dumped(touch(c))))), 3, "pickle.loads"
    ),
    Row("calls a marker", pickled(lambda c: b"\x80\x02ctorch\nFloatStorage\n)R."), 3, "torch.FloatStorage"),
    Row("calls a value", pickled(lambda c: b"\x80\x02K\x01)R."), 3, "a int"),
    Row("state of a tensor", pickled(lambda c: table(("w", tensor(storage()) + b"}b"))), 3, "state"),
    Row("bytes after the pickle", pickled(lambda c: GOOD + dumped(touch(c))), 3, "follow the end"),
    Row(
        "numpy object array", pickled(lambda c: b"\x80\x02cnumpy\ndtype\n" + text("O8") + b"\x85R."), 3, "plain number"
    ),
    Row("too many steps", pickled(lambda c: b"\x80\x02" + b"N0" * 10 + b"."), 3, "POP"),
    Row("endless text", pickled(lambda c: table(("x" * 70_000, tensor(storage())))), 3, "70000 characters"),
    Row("whole module", saved(network), 3, "torch.nn.modules.container.Sequential"),
    Row("whole module, old format", saved(network, _use_new_zipfile_serialization=False), 3, "container.Sequential"),
    Row("plain pickle", file(lambda c: dumped(touch(c)), "bad.pkl"), 3, "posix.system"),
    Row("plain pickle of numbers", constant(dumped({"a": 1}), "bad.pkl"), 3, "plain pickle"),
    Row("text pickle", file(lambda c: f"cos\nsystem\n(S'touch {c}'\ntR.".encode()), 3, "os.system"),
    Row("sparse tensor", saved(lambda: {"w": torch.eye(3).to_sparse()}), 3, "sparse"),
    Row(
        "quantised tensor",
        saved(lambda: {"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}),
        3,
        "quantised",
    ),
    Row("complex tensor", saved(lambda: {"w": torch.ones(2, dtype=torch.complex64)}), 3, "complex"),
]

# ---- zip containers --------------------------------------------------------------------------------------------------


def renamed(old: str, new: str) -> bytes:
    """A good container in which one member carries another name of equal length, in both places."""
    return zipped(members()).replace(old.encode(), new.encode())


def patched(offset_of: bytes, at: int, new: bytes, last: bool = False) -> bytes:
    """A good container with bytes changed relative to a signature's first or last place."""
    data = zipped(members())
    start = (data.rindex(offset_of) if last else data.index(offset_of)) + at
    return data[:start] + new + data[start + len(new) :]


def doubled() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in [*members().items(), ("a/data0pkl", dumped("the other one"))]:
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue().replace(b"a/data0pkl", b"a/data.pkl")


def two_directories() -> bytes:
    """A whole second container appended: one reader takes the first directory, another the last."""
    return zipped(members(dumped({"a": 1}))) + zipped(members())


def gap() -> bytes:
    """Bytes between two members, with all offsets made to fit."""
    content = zipped(members())
    second = content.index(b"PK\x03\x04", 4)
    start = content.index(b"PK\x01\x02")
    filler = b"hidden bytes"
    out = bytearray(content[:second] + filler + content[second:])
    position = start + len(filler)
    while out[position : position + 4] == b"PK\x01\x02":
        (offset,) = struct.unpack_from("<L", out, position + 42)
        if offset:
            struct.pack_into("<L", out, position + 42, offset + len(filler))
        position += 46 + sum(struct.unpack_from("<3H", out, position + 28))
    struct.pack_into("<L", out, position + 16, start + len(filler))
    return bytes(out)


def gap_at_the_end() -> bytes:
    """Bytes between the last member and the directory, with the end record made to fit."""
    content = zipped(members())
    start = content.index(b"PK\x01\x02")
    out = bytearray(content[:start] + b"hidden bytes" + content[start:])
    struct.pack_into("<L", out, len(out) - 6, start + 12)
    return bytes(out)


def flipped() -> bytes:
    data = bytearray(zipped(members()))
    data[data.index(FOUR)] ^= 1
    return bytes(data)


CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
ZIPS = [
    Row("member path ..", constant(renamed("a/version", "a/../../x")), 3, "reaches outside"),
    Row("absolute member path", constant(renamed("a/version", "/etc/pass")), 3, "reaches outside"),
    Row("member path with backslash", constant(renamed("a/version", "a\\version")), 3, "reaches outside"),
    Row("two roots", constant(renamed("a/version", "b/version")), 3, "several folders"),
    Row("two members of one name", constant(doubled()), 3, "two members"),
    Row("wrong checksum", constant(flipped()), 3, "checksum"),
    Row("encrypted member", constant(patched(CENTRAL, 8, b"\x01")), 3, "encrypted"),
    Row("compressed bomb", constant(zipped(members(s0=b"\0" * 10**7), zipfile.ZIP_DEFLATED)), 3, "compressed"),
    Row("64-bit sizes without field", constant(patched(CENTRAL, 20, b"\xff" * 8)), 3, "64-bit"),
    Row("two sizes", constant(patched(CENTRAL, 24, b"\x07\0\0\0")), 3, "two sizes"),
    Row("two directories", constant(two_directories()), 3, "second directory"),
    Row("bytes before the container", constant(b"#hi\n" + zipped(members())), 3, "before it"),
    Row("text before the container", constant(b"{}  " + zipped(members())), 3, "before it"),
    Row("bytes after the container", constant(zipped(members()) + b"more"), 3, "follow its end"),
    Row("comment", constant(patched(END, 20, b"\x02\0") + b"hi"), 3, "follow its end"),
    Row("local header differs", constant(patched(LOCAL, 30, b"b")), 3, "differs from the directory"),
    Row("local sizes differ", constant(patched(LOCAL, 22, b"\x09\0\0\0")), 3, "differs from the directory"),
    Row("hidden gap", constant(gap()), 3, "hidden"),
    Row("hidden gap at the end", constant(gap_at_the_end()), 3, "hidden before its directory"),
    Row("member outside the file", constant(patched(CENTRAL, 42, b"\xf0\xff\0\0", last=True)), 3, "hidden"),
    Row("directory too short", constant(patched(END, 10, b"\x09\0")), 3, "parts"),
    Row("directory elsewhere", constant(patched(END, 16, b"\x01\0\0\0")), 3, "second directory"),
    Row("second pickle", constant(zipped(members() | {"a/more.pkl": b"N."})), 3, "second pickle"),
    Row("unknown member", constant(zipped(members() | {"a/run.sh": b"echo"})), 3, "run.sh"),
    Row("TorchScript", constant(zipped(members() | {"a/constants.pkl": b"N.", "a/code/x.py": b"1"})), 3, "TorchScript"),
    Row("exported program", constant(zipped({"a/archive_format": b"pt2"}), "bad.pt2"), 3, "pt2"),
    Row("torch.package", constant(zipped({"a/.data/extern_modules": b""})), 3, "torch.package"),
    Row("zip of something else", constant(zipped({"word/document.xml": b"<xml/>"})), 2, "document.xml"),
    Row("big-endian", constant(zipped(members() | {"a/byteorder": b"big"})), 2, "big-endian"),
    Row("truncated zip", constant(zipped(members())[:-30]), 2, "no end record"),
]

# ---- tensors ---------------------------------------------------------------------------------------------------------


def tensors(*items: tuple[str, bytes], **storages: bytes) -> Maker:
    return constant(zipped(members(table(*items), **storages)))


def legacy(change: Callable[[bytes], bytes]) -> Maker:
    def make(_: Path) -> bytes:
        out = io.BytesIO()
        torch.save({"weight": torch.arange(4.0)}, out, _use_new_zipfile_serialization=False)
        return change(out.getvalue())

    return file(make)


def big_endian(data: bytes) -> bytes:
    at = data.index(b"\x88", data.index(b"little_endian"))
    return data[:at] + b"\x89" + data[at + 1 :]


def deep(levels: int) -> Any:
    value: Any = state()
    for _ in range(levels):
        value = {"net": value}
    return value


TENSORS = [
    Row("view outside its storage", tensors(("w", tensor(storage(), offset=1))), 3, "outside its storage"),
    Row("strides outside the storage", tensors(("w", tensor(storage(), (2, 2), (3, 1)))), 3, "outside its storage"),
    Row("negative offset", tensors(("w", tensor(storage(), offset=-1))), 3, "outside its storage"),
    Row("negative stride", tensors(("w", tensor(storage(), stride=(-1,)))), 2, "-1"),
    Row("storage larger than its bytes", tensors(("w", tensor(storage(numel=5)))), 3, "claims 5"),
    Row(
        "storage of two types",
        tensors(("w", tensor(storage())), ("v", tensor(storage(kind="torch\nIntStorage")))),
        3,
        "two ways",
    ),
    Row("storage missing", tensors(("w", tensor(storage("7")))), 2, "missing"),
    Row("storage path", tensors(("w", tensor(storage("../../x")))), 2, "missing"),
    Row("expanded bomb", tensors(("w", tensor(storage(), (1 << 20, 1 << 10), (0, 0)))), 3, "bomb"),
    Row("NaN", saved(lambda: {"w": torch.tensor([1.0, float("nan")])}), 2, "NaN"),
    Row("infinity", saved(lambda: {"w": torch.tensor([1.0, float("-inf")])}), 2, "infinite"),
    Row("negative variance", saved(lambda: {"bn.running_var": torch.tensor([1.0, -0.5])}), 2, "negative variance"),
    Row("no tensors", saved(lambda: {"epoch": 3, "args": "--lr 1"}), 2, "no tensors"),
    Row("a tensor alone", saved(lambda: torch.ones(3)), 2, "without a name"),
    Row("two networks", saved(lambda: {"generator": state(), "critic": state()}), 2, "several sets"),
    Row("too deep", saved(lambda: deep(9)), 2, "levels deep"),
    Row("strange name", saved(lambda: {"<script>": torch.ones(2)}), 2, "script"),
    Row("names collide", saved(lambda: {"a._orig_mod.w": torch.ones(2), "a.w": torch.ones(2)}), 2, "collide"),
    Row("old format, bytes behind", legacy(lambda data: data + b"payload"), 3, "hidden"),
    Row("old format, size lies", legacy(lambda data: data[:-24] + struct.pack("<q", 9) + data[-16:]), 3, "lies"),
    Row("old format, cut in a tensor", legacy(lambda data: data[:-3]), 2, "inside a tensor"),
    Row("old format, cut before", legacy(lambda data: data[:-20]), 2, "before its last tensor"),
    Row("old format, cut in the pickle", legacy(lambda data: data[:200]), 2, "cannot be read"),
    Row(
        "old format, big-endian",
        legacy(big_endian),
        2,
        "big-endian",
    ),
]

# ---- safetensors -----------------------------------------------------------------------------------------------------


def safetensors(header: Any, data: bytes = FOUR, length: int | None = None) -> Maker:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(encoded) if length is None else length
    return constant(struct.pack("<Q", size) + encoded + data, "bad.safetensors")


def entry(first: int = 0, last: int = 16, dtype: Any = "F32", shape: Any = (4,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


DOUBLE = b'{"w":' + json.dumps(entry()).encode() + b',"w":' + json.dumps(entry()).encode() + b"}"
SAFETENSORS = [
    Row("header without end", safetensors({"w": entry()}, length=1 << 30), 3, "header claims"),
    Row("header cut", safetensors({"w": entry()}, b"", length=4000), 2, "before its header"),
    Row("tensor cut", safetensors({"w": entry()}, FOUR[:9]), 2, "before its last tensor"),
    Row("name twice", safetensors(DOUBLE), 3, "twice"),
    Row("overlap", safetensors({"w": entry(0, 16), "v": entry(0, 16)}), 3, "overlap"),
    Row("hole", safetensors({"w": entry(4, 20)}, FOUR + FOUR[:4]), 3, "hole"),
    Row("bytes at the end", safetensors({"w": entry()}, FOUR + b"hidden"), 3, "follow its last tensor"),
    Row("shape and size differ", safetensors({"w": entry(shape=[5])}), 3, "contradicts"),
    Row("endless nesting", safetensors(b'{"a":' * 100_000 + b"1"), 3, "nested"),
    Row("true as a size", safetensors({"w": entry(shape=[True, 4])}), 2, "shape"),
    Row("unknown type", safetensors({"w": entry(dtype="F8_E4M3", shape=[16])}), 2, "F8_E4M3"),
    Row("negative place", safetensors({"w": entry(-16, 0)}), 2, "place"),
    Row("not JSON", safetensors(b"{" + b"\xff" * 20), 2, "not JSON"),
    Row("numbers as metadata", safetensors({"__metadata__": {"a": 1}, "w": entry()}), 2, "metadata"),
    Row("entry with more fields", safetensors({"w": entry() | {"code": "x"}}), 2, "malformed"),
    Row("no tensors in it", safetensors({}, b""), 2, "no tensors"),
]

# ---- other files, and things that are no files -----------------------------------------------------------------------


def tar(_: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../escape"), io.BytesIO())
    return out.getvalue()


def fifo(folder: Path, _: Path) -> Path:
    os.mkfifo(folder / "bad.pt")
    return folder / "bad.pt"


def loop(folder: Path, _: Path) -> Path:
    (folder / "bad.pt").symlink_to("bad.pt")
    return folder / "bad.pt"


ENGINE = b"ftrt" + bytes(60)
JSON_FIRST = json.dumps({"task": "classify"}).encode()
OTHERS = [
    Row("TensorRT engine", constant(b"ptrt" + bytes(60), "bad.engine"), 3, "TensorRT"),
    Row("TensorRT engine as .pt", constant(ENGINE), 3, "TensorRT"),
    Row(
        "TensorRT engine behind JSON", constant(struct.pack("<I", len(JSON_FIRST)) + JSON_FIRST + ENGINE), 3, "TensorRT"
    ),
    Row("unknown binary as .plan", constant(bytes(range(256)), "bad.plan"), 3, "TensorRT"),
    Row("program", constant(b"\x7fELF" + bytes(60)), 3, "program"),
    Row("script", constant(b"#!/bin/sh\necho hi\n"), 3, "program"),
    Row("tar archive", file(tar), 3, "tar archive"),
    Row("gzip", constant(gzip.compress(zipped(members()))), 2, "gzip"),
    Row("Keras", constant(b"\x89HDF\r\n\x1a\n" + bytes(60)), 2, "HDF5"),
    Row("web page", constant(b"<!DOCTYPE html>\n<html>404</html>"), 2, "text"),
    Row("Git LFS pointer", constant(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), 2, "git lfs pull"),
    Row("noise", constant(zlib.compress(b"noise") * 9), 2, "does not know"),
    Row("empty", constant(b""), 2, "empty"),
    Row("ending .onnx, content zip", constant(zipped(members()), "bad.onnx"), 2, ".onnx"),
    Row("ending .safetensors, content zip", constant(zipped(members()), "bad.safetensors"), 2, ".safetensors"),
    Row("folder", lambda folder, _: folder, 2, "folder"),
    Row("missing", lambda folder, _: folder / "bad.pt", 2, "no such file"),
    Row("FIFO", fifo, 2, "pipe"),
    Row("device", lambda folder, _: Path("/dev/null"), 2, "device"),
    Row("link to itself", loop, 2, "opened"),
    Row("NUL in the name", lambda folder, _: folder / "bad\0.pt", 2, "opened"),
    Row("control characters in the name", lambda folder, _: folder / "bad\n\x1b[31m.pt", 2, "no such file"),
]

ROWS = [*CODE, *ZIPS, *TENSORS, *SAFETENSORS, *OTHERS]
