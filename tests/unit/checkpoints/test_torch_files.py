"""Files of torch.save, both formats, against torch's own reader."""

import io
import json
import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_files import saved, state, text

from edgekd import checkpoints
from edgekd.checkpoints import torch_values, zip_members
from edgekd.checkpoints.opcodes import Global, read
from edgekd.checkpoints.tensors import Storage, Tensor
from edgekd.checkpoints.torch_legacy import MAGIC, read_legacy
from edgekd.checkpoints.torch_zip import read_zip
from edgekd.checkpoints.worker import answer
from edgekd.errors import UnsafeInput, UsageError


def loaded(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What the child makes of ``data``, in this process."""
    import safetensors.torch

    header, pieces = answer("teacher", data, ".pt", 1 << 30)
    assert "refused" not in header, header
    return safetensors.torch.load(b"".join(bytes(piece) for piece in pieces)), header


def names_and_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix in (".pth", ".pt", ".th", ".tar")]


def test_every_shared_teacher_equals_what_torch_reads(shared: Path) -> None:
    paths = names_and_files(shared / "checkpoints")
    facts = {entry["file"]: entry for entry in json.loads((shared / "checkpoints" / "index.json").read_text())}
    assert {path.name for path in paths} == set(facts)
    for path in paths:
        checkpoint = checkpoints.load(path)
        assert checkpoint.sha256 == facts[path.name]["sha256"]
        wanted = torch.load(path, map_location="cpu", weights_only=True)
        for name in (name for name in checkpoint.layout if not name.endswith(".")):
            wanted = wanted[name]
        prefix = "".join(name for name in checkpoint.layout if name.endswith("."))
        wanted = {key.removeprefix(prefix): value for key, value in wanted.items()}
        assert list(checkpoint.tensors) == list(wanted)
        for key, tensor in wanted.items():
            assert tensor.dtype == checkpoint.tensors[key].dtype
            assert torch.equal(tensor, checkpoint.tensors[key])
        wrapping = facts[path.name]["wrapper"]
        assert ("module." in wrapping) == ("module." in checkpoint.layout)
        assert checkpoint.layout[:1] == () or wrapping.startswith(f"['{checkpoint.layout[0]}']")
        assert checkpoint.warnings == ()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
    + [torch.uint8, torch.bool],
)
def test_every_type_bit_for_bit(dtype: torch.dtype, legacy: bool) -> None:
    value = torch.randint(0, 2, (3, 5)).to(dtype)
    found, header = loaded(saved({"w": value}, legacy))
    assert found["w"].dtype == dtype
    assert torch.equal(found["w"], value)
    assert header["format"] == ("torch-legacy" if legacy else "torch-zip")


@pytest.mark.parametrize("legacy", [False, True])
def test_views_parameters_and_shared_storages(legacy: bool) -> None:
    base = torch.arange(60.0).reshape(3, 4, 5)
    value = {
        "whole": base,
        "part": base[1:, 1:3],
        "turned": base.permute(2, 0, 1),
        "last": base.to(memory_format=torch.contiguous_format)[..., -1],
        "channels": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
    }
    found, _ = loaded(saved(value, legacy))
    assert sorted(found) == sorted(value)
    assert all(torch.equal(found[key], value[key]) for key in value)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_lies_beside_the_weights(legacy: bool) -> None:
    value = {
        "state_dict": torch.nn.BatchNorm2d(4).state_dict(),  # an OrderedDict with attributes of its own
        "epoch": 3,
        "acc": np.float64(91.5),
        "best": np.float32(0.5),
        "count": np.int64(7),
        "shape": torch.Size([1, 2]),
        "name": "net\x1b",
        "nan": float("nan"),
        "huge": 1 << 80,
        "optimizer": torch.optim.SGD([torch.ones(2, requires_grad=True)], 0.1, momentum=0.9).state_dict(),
    }
    _, header = loaded(saved(value, legacy))
    assert header["layout"] == ["state_dict"]
    assert header["metadata"] == {"epoch": 3, "acc": 91.5, "best": 0.5, "count": 7, "name": "net?"}


def python_2(data: bytes) -> bytes:
    """An old file with every text written as Python 2 did."""
    *pickles, rest = pieces(data)
    for index, part in enumerate(pickles):
        out = b""
        steps = [*pickletools.genops(part)]
        ends = [place for _, _, place in steps[1:]] + [len(part)]
        for (opcode, argument, place), end in zip(steps, ends, strict=True):
            is_text = opcode.name == "BINUNICODE"
            out += b"U" + bytes([len(argument)]) + argument.encode() if is_text else part[place:end]
        pickles[index] = out
    return b"".join(pickles) + rest


def test_files_of_python_2() -> None:
    data = python_2(saved({"net": state(), "note": "old"}, legacy=True))
    assert b"X" not in data[:200]
    found, header = loaded(data)
    assert header["metadata"] == {"note": "old"}
    assert all(torch.equal(found[key], value) for key, value in state().items())


def test_the_allowed_names_are_reviewed() -> None:
    """Whoever adds a name here has made sure that its builder makes plain data."""
    assert sorted(map(str, torch_values.NAMES)) == sorted(
        ["_codecs.encode", "collections.OrderedDict", "numpy.dtype", "torch.Size"]
        + ["numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar"]
        + [f"torch._utils._rebuild_{kind}" for kind in ("parameter", "tensor", "tensor_v2")]
        + [
            f"{module}.{kind}Storage"
            for module in ("torch", "torch.cuda")
            for kind in "BFloat16 Bool Byte Char Double Float Half Int Long Short".split()
        ]
    )


# ---- builders --------------------------------------------------------------------------------------------------------

KIND = Global("torch", "FloatStorage")


@pytest.mark.parametrize(
    ("reference", "error", "word"),
    [
        ("storage", UnsafeInput, "not a tensor's storage"),
        ((), UnsafeInput, "not a tensor's storage"),
        (("module", "x"), UnsafeInput, "not a tensor's storage"),
        (("storage", KIND, "0"), UsageError, "torch 0.3"),
        (("storage", KIND, "0", "cpu", 4, ("k", 0, 2)), UsageError, "torch 0.3"),
        (("storage", Global("torch", "Size"), "0", "cpu", 4), UsageError, "malformed"),
        (("storage", "FloatStorage", "0", "cpu", 4), UsageError, "malformed"),
        (("storage", KIND, 0, "cpu", 4), UsageError, "malformed"),
        (("storage", KIND, "0", "cpu", -4), UsageError, "malformed"),
    ],
)
def test_references_to_storages(reference: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        torch_values.Storages().persistent(reference)


def test_one_storage_has_one_description() -> None:
    storages = torch_values.Storages()
    first = storages.persistent(("storage", KIND, "0", "cuda:0", 4))
    assert storages.persistent((b"storage", KIND, "0", "mps", 4, None)) is first
    with pytest.raises(UnsafeInput, match="two ways"):
        storages.persistent(("storage", KIND, "0", "cpu", 5))


def test_builders_reject_what_torch_does_not_write() -> None:
    tensor = Tensor(Storage("F32", 1), 0, (1,), (1,))
    assert torch_values.ordered_dict([("a", 1), ("b", 2)]) == {"a": 1, "b": 2}
    assert torch_values.ordered_dict() == {}
    for pairs in (3, [1], [("a",)], [([], 1)]):
        with pytest.raises(UsageError, match="ordered dict"):
            torch_values.ordered_dict(pairs)
    with pytest.raises(UnsafeInput, match="lazy view"):
        torch_values.rebuild_tensor_2(Storage("F32", 1), 0, (1,), (1,), False, {}, {"conj": True})
    with pytest.raises(UsageError, match="not a tensor"):
        torch_values.rebuild_parameter("x")
    assert torch_values.rebuild_parameter(tensor) is tensor
    assert torch_values.rebuild_tensor(Storage("F32", 1), 0, (1,), (1,)) == tensor
    assert torch_values.size([1, 2]) == (1, 2)
    assert torch_values.size(7) == ()


# ---- the old format --------------------------------------------------------------------------------------------------


def pieces(data: bytes) -> list[bytes]:
    """The five pickles of an old file, and the rest."""
    from edgekd.checkpoints.torch_legacy import _PLAIN_RULES

    found, position = [], 0
    for index in range(5):
        rules = torch_values.Storages().rules() if index == 3 else _PLAIN_RULES
        _, end = read(data, rules, position)
        found.append(data[position:end])
        position = end
    return [*found, data[position:]]


@pytest.mark.parametrize(
    ("index", "piece", "error", "word"),
    [
        (0, b"\x80\x02K\x01.", UsageError, "not a torch.save file"),
        (1, b"\x80\x02K\x01.", UsageError, "not a torch.save file"),
        (2, b"\x80\x02N.", UsageError, "big-endian"),
        (4, b"\x80\x02N.", UsageError, "list of storages is malformed"),
        (4, b"\x80\x02]K\x01a.", UsageError, "list of storages is malformed"),
        (4, b"\x80\x02].", UnsafeInput, "contradicts itself"),
        (4, b"\x80\x02]" + text("other") + b"a.", UnsafeInput, "contradicts itself"),
    ],
)
def test_old_files_with_one_pickle_replaced(index: int, piece: bytes, error: type[Exception], word: str) -> None:
    parts = pieces(saved({"w": torch.ones(2)}, legacy=True))
    parts[index] = piece
    with pytest.raises(error, match=word):
        read_legacy(b"".join(parts))


def test_old_file_with_a_storage_listed_twice() -> None:
    parts = pieces(saved({"w": torch.ones(2)}, legacy=True))
    key = parts[4][
        parts[4].index(b"X") : parts[4].index(b"X")
        + 5
        + struct.unpack_from("<I", parts[4], parts[4].index(b"X") + 1)[0]
    ]
    parts[4] = b"\x80\x02](" + key + key + b"e."
    with pytest.raises(UnsafeInput, match="contradicts itself"):
        read_legacy(b"".join(parts))


def test_the_magic_number_is_torchs() -> None:
    from torch.serialization import MAGIC_NUMBER

    assert MAGIC == MAGIC_NUMBER


# ---- the container ---------------------------------------------------------------------------------------------------


def test_torchs_containers_are_read_to_the_last_byte() -> None:
    data = saved(state())
    entries = zip_members.directory(data)
    found = zip_members.members(data, entries)
    assert {name.split("/", 1)[1] for name in found} >= {"data.pkl", "byteorder", "version", "data/0", "data/1"}


def sixty_four(change: dict[str, int] | None = None) -> bytes:
    """A torch file whose end record's fields are changed: locator, 64-bit record, old record."""
    data = bytearray(saved({"w": torch.ones(2)}))
    places = {
        "locator_disk": (len(data) - 22 - 20 + 4, "<L"),
        "locator_at": (len(data) - 22 - 20 + 8, "<Q"),
        "length": (len(data) - 22 - 20 - 56 + 4, "<Q"),
        "count64": (len(data) - 22 - 20 - 56 + 24, "<Q"),
        "both_counts64": (len(data) - 22 - 20 - 56 + 24, "<QQ"),
        "size64": (len(data) - 22 - 20 - 56 + 40, "<Q"),
        "count": (len(data) - 22 + 8, "<HH"),
    }
    for name, value in (change or {}).items():
        place, layout = places[name]
        struct.pack_into(layout, data, place, *[value] * (len(layout) - 1))
    return bytes(data)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"locator_disk": 1}, "not where it says"),
        ({"locator_at": 5}, "not where it says"),
        ({"length": 99}, "malformed"),
        ({"count64": 3}, "malformed"),
        ({"both_counts64": 3}, "end records differ"),
        ({"count": 3}, "end records differ"),
        ({"size64": 3}, "end records differ"),
        ({"both_counts64": 50_000, "count": 50_000}, "50000 members"),
        ({"both_counts64": 99, "count": 99}, "shorter than it says"),
        ({"both_counts64": 2, "count": 2}, "longer than it says"),
    ],
)
def test_end_records_must_agree(change: dict[str, int], word: str) -> None:
    with pytest.raises(UnsafeInput, match=word):
        read_zip(sixty_four(change))
    assert read_zip(sixty_four())


def poked(signature: bytes, at: int, new: bytes, data: bytes | None = None, last: bool = False) -> bytes:
    data = saved({"w": torch.ones(2)}) if data is None else data
    place = (data.rindex(signature) if last else data.index(signature)) + at
    return data[:place] + new + data[place + len(new) :]


CENTRAL, LOCAL, DESCRIPTOR = b"PK\x01\x02", b"PK\x03\x04", b"PK\x07\x08"


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (poked(CENTRAL, 0, b"XX"), "something else"),
        (poked(CENTRAL, 34, b"\x01"), "another disk"),
        (poked(CENTRAL, 28, b"\xff\xff", last=True), "shorter than it says"),
        (poked(CENTRAL, 46, b"\xff"), "not text"),
        (poked(CENTRAL, 20, b"\xff" * 4), "64-bit field"),
        (poked(DESCRIPTOR, 4, b"\0" * 4), "descriptor"),
        (poked(LOCAL, 8, b"\x08"), "differs from the directory"),
        (poked(LOCAL, 14, b"\x01"), "differs from the directory"),
        (poked(CENTRAL, 24, b"\x01\0\0\0", poked(CENTRAL, 20, b"\x01\0\0\0")), "descriptor"),
    ],
)
def test_headers_must_agree(data: bytes, word: str) -> None:
    with pytest.raises(UnsafeInput, match=word):
        read_zip(data)


def test_64_bit_sizes_of_members() -> None:
    extra = struct.pack("<HH4s", 7, 4, b"junk") + struct.pack("<HHQQ", 1, 16, 10, 20)
    assert zip_members._wide(extra, [0xFFFFFFFF, 0xFFFFFFFF, 5], "m") == [10, 20, 5]
    for bad in (struct.pack("<HHQ", 1, 8, 10), struct.pack("<HHQ", 1, 16, 10), b""):
        with pytest.raises(UnsafeInput, match="64-bit field"):
            zip_members._wide(bad, [0xFFFFFFFF, 0xFFFFFFFF, 5], "m")


def test_an_end_record_must_have_room_for_what_it_promises() -> None:
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0, 0, 0)
    with pytest.raises(UnsafeInput, match="64-bit end record is missing"):
        zip_members.directory(b"PK\x03\x04" + end)
    with pytest.raises(UsageError, match="no end record"):
        zip_members.directory(b"PK\x03\x04")
    assert zip_members.directory(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)) == []


def test_members_that_point_outside() -> None:
    entry = zip_members.Member("a", b"a", 0, 0, 0, 5, 0)
    with pytest.raises(UnsafeInput, match="starts outside"):
        zip_members._local_header(b"short", entry)
    header = struct.pack("<4s5H3L2H", LOCAL, 0, 0, 0, 0, 0, 0, 5, 5, 1, 0) + b"a"
    with pytest.raises(UnsafeInput, match="reaches outside the file"):
        zip_members._local_header(header, entry)


def test_directory_entries_cut_short() -> None:
    start = struct.pack("<4s6H3L5H2L", CENTRAL, *[0] * 9, 1, *[0] * 6)[:40]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(start), 0, 0)
    with pytest.raises(UnsafeInput, match="shorter than it says"):
        zip_members.directory(start + end)


def test_a_pickle_may_not_be_large(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd.checkpoints import limits

    monkeypatch.setattr(limits, "PICKLE_BYTES", 10)
    with pytest.raises(UnsafeInput, match="Its pickle has"):
        read_zip(saved(state()))


def test_torch_reads_what_we_read() -> None:
    """The strict reader is not stricter than torch.save: a file of many storages, by torch's own loader too."""
    value = {f"layer{index}.weight": torch.full((index + 1,), float(index)) for index in range(300)}
    data = saved({"model": value, "args": {"lr": 0.1}})
    found, _ = loaded(data)
    wanted = torch.load(io.BytesIO(data), weights_only=True)["model"]
    assert all(torch.equal(found[key], wanted[key]) for key in value)
