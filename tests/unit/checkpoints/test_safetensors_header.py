"""The header check of safetensors files, against the library's own writer and hand-made headers."""

import json
import struct
from typing import Any

import pytest
import safetensors.torch
import torch
from small_files import state

from edgekd.checkpoints import limits
from edgekd.checkpoints.safetensors_header import read_header, read_safetensors
from edgekd.errors import UnsafeInput, UsageError


def made(header: Any, data: bytes = bytes(16)) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def entry(**fields: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | fields


def test_the_librarys_own_files_pass() -> None:
    data = safetensors.torch.save(state() | {"empty": torch.zeros(0, 3)}, {"format": "pt"})
    entries, metadata, start = read_header(data)
    assert metadata == {"format": "pt"}
    assert entries["conv.weight"][:2] == ("F32", (4, 3, 3, 3))
    tensors, _ = read_safetensors(data)
    for name, tensor in state().items():
        assert bytes(tensors[name].content()) == tensor.numpy().tobytes()
    assert start + sum(tensor.nbytes for tensor in tensors.values()) == len(data)


@pytest.mark.parametrize(
    ("data", "error", "word"),
    [
        (b"", UsageError, "before its header"),
        (b"1234567", UsageError, "before its header"),
        (struct.pack("<Q", 100) + b"{}", UsageError, "before its header"),
        (struct.pack("<Q", 1 << 63) + b"{}", UnsafeInput, "header claims"),
        (made(b""), UsageError, "not JSON"),
        (made(b"[]"), UsageError, "not a table"),
        (made(b'{"a":1,"a":1}'), UnsafeInput, "twice"),
        (made(b'{"w":{"dtype":"F32","dtype":"F64"}}'), UnsafeInput, "twice"),
        (made(b"[" * 200_000), UnsafeInput, "nested"),
        (made(b'{"w":' + b"1" * 5000 + b"}"), UsageError, "not JSON"),
        (made({"__metadata__": []}), UsageError, "metadata"),
        (made({"__metadata__": {"a": 1}}), UsageError, "metadata"),
        (made({"w": []}), UsageError, "malformed"),
        (made({"w": {"dtype": "F32"}}), UsageError, "malformed"),
        (made({"w": entry(dtype="C64")}), UsageError, "C64"),
        (made({"w": entry(dtype=["F32"])}), UsageError, "F32"),
        (made({"w": entry(shape=4)}), UsageError, "shape"),
        (made({"w": entry(shape=[1] * 9)}), UsageError, "shape"),
        (made({"w": entry(shape=[-4])}), UsageError, "shape"),
        (made({"w": entry(shape=[4.0])}), UsageError, "shape"),
        (made({"w": entry(shape=[1 << 40])}), UsageError, "shape"),
        (made({"w": entry(data_offsets=[0])}), UsageError, "place"),
        (made({"w": entry(data_offsets=[False, 16])}), UsageError, "place"),
        (made({"w": entry(data_offsets=[16, 0])}), UnsafeInput, "contradicts"),
        (made({"w": entry(shape=[3])}), UnsafeInput, "contradicts"),
        (made({"w": entry(), "v": entry()}), UnsafeInput, "overlap"),
        (made({"w": entry(data_offsets=[4, 20])}), UnsafeInput, "hole"),
        (made({"w": entry()}, bytes(15)), UsageError, "ends 1 bytes before"),
        (made({"w": entry(shape=[1 << 31, 0], data_offsets=[0, 0])}), UnsafeInput, "no numbers"),
        (made({"w": entry(shape=[0, *[1 << 31] * 7], data_offsets=[0, 0])}), UnsafeInput, "no numbers"),
        (made({"w": entry()}, bytes(17)), UnsafeInput, "1 bytes follow"),
    ],
)
def test_hand_made_headers(data: bytes, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        read_header(data)


def test_truncation_at_every_byte_is_noticed() -> None:
    data = made({"w": entry(), "__metadata__": {"a": "b"}})
    for length in range(len(data)):
        with pytest.raises((UsageError, UnsafeInput)):
            read_header(data[:length])
    read_header(data)


def test_too_many_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TENSORS", 1)
    with pytest.raises(UnsafeInput, match="holds 2 tensors"):
        read_header(made({"w": entry(), "v": entry(data_offsets=[16, 32])}, bytes(32)))
