"""What a file is, by content; what its name promises."""

import pickle
import struct

import pytest
from small_files import saved, state

from edgekd.checkpoints.kinds import kind_of
from edgekd.errors import UnsafeInput, UsageError

SAFETENSORS = struct.pack("<Q", 2) + b"{}"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (saved(state()), "torch-zip"),
        (saved(state(), legacy=True), "torch-legacy"),
        (saved(state(), legacy=True, pickle_protocol=4), "torch-legacy"),
        (SAFETENSORS, "safetensors"),
        (b"\x08\x08\x12\x07pytorch", "onnx"),
    ],
)
def test_kinds(data: bytes, kind: str) -> None:
    assert kind_of(data, "") == kind
    assert kind_of(data, ".tar") == kind


@pytest.mark.parametrize("ending", [".pt", ".pth", ".th", ".ckpt", ".model"])
def test_torch_endings(ending: str) -> None:
    assert kind_of(saved(state()), ending) == "torch-zip"
    assert kind_of(saved(state(), legacy=True), ending) == "torch-legacy"
    with pytest.raises(UsageError, match="content is safetensors"):
        kind_of(SAFETENSORS, ending)


def test_protobuf_has_no_mark_so_the_name_decides() -> None:
    assert kind_of(b"\x3a\x02hi", ".onnx") == "onnx"
    with pytest.raises(UsageError, match="content is onnx"):
        kind_of(b"\x08\x08\x12\x07pytorch", ".pt")


class Odd:
    def __reduce__(self) -> tuple[type, tuple[int]]:
        return (complex, (3,))


@pytest.mark.parametrize(
    ("data", "error", "word"),
    [
        (pickle.dumps(Odd(), 0), UnsafeInput, "names __builtin__.complex"),
        (pickle.dumps(Odd(), 2), UnsafeInput, "names __builtin__.complex"),
        (pickle.dumps(Odd(), 4), UnsafeInput, "names builtins.complex"),
        (pickle.dumps([1, 2], 4), UnsafeInput, "plain pickle, not"),
        (pickle.dumps(list(range(20_000)), 4), UnsafeInput, "plain pickle, not"),
        (b"\x80\x02]q\x00(", UnsafeInput, "plain pickle, not"),
        (b"(ios\nsystem\n.", UnsafeInput, "names os.system"),
        (b"PK\x05\x06" + bytes(18), UsageError, "does not know"),
        (b"plain words", UsageError, "is text"),
        (b"", UsageError, "is text"),
        ("ä".encode() * 3000, UsageError, "is text"),
        (b"x" + "ä".encode() * 3000, UsageError, "is text"),
        (b"a" * 100 + b"\xff" * 9, UsageError, "does not know"),
        (b"text with a \0", UsageError, "does not know"),
        (b"GGUF\3\0\0\0", UsageError, "GGUF"),
        (b"7z\xbc\xaf\x27\x1c", UsageError, "7z"),
        (b"MZ\x90\0", UnsafeInput, "program"),
    ],
)
def test_what_is_not_read(data: bytes, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        kind_of(data, ".pt")


def test_text_called_plan_is_no_engine() -> None:
    with pytest.raises(UsageError, match="is text"):
        kind_of(b"the plan for today", ".plan")
