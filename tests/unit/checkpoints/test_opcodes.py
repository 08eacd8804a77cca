"""The pickle machine: what it builds, what it refuses, what it calls damage."""

import pickle
from collections import OrderedDict
from typing import Any

import pytest

from edgekd.checkpoints import limits
from edgekd.checkpoints.opcodes import BYTES, CHECKPOINT_OPCODES, Global, Rules, read
from edgekd.errors import UnsafeInput, UsageError

RULES = Rules(
    CHECKPOINT_OPCODES | BYTES | {"STACK_GLOBAL"},
    {Global("collections", "OrderedDict"): dict, Global("torch", "FloatStorage"): None},
    states={dict: lambda target, state: target},
)
STRICT = Rules(CHECKPOINT_OPCODES, {})
PLAIN: list[Any] = [
    {"a": [1, 300, 70000, -5, 2**70], "b": (1.5, None, True, False)},
    [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, "ä", b"bytes"],
    OrderedDict([("x", 1), ("y", [2, [3]])]),
    [["shared"]] * 3,
]


@pytest.mark.parametrize("value", PLAIN)
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_values_come_out_as_pickle_reads_them(value: Any, protocol: int) -> None:
    if protocol == 2 and value is PLAIN[1]:
        value = value[:-1]  # bytes need a name in protocol 2
    data = pickle.dumps(value, protocol)
    assert read(data, RULES) == (value, len(data))


def test_reading_starts_and_ends_where_it_is_told() -> None:
    first, second = pickle.dumps([1], 2), pickle.dumps({"k": "v"}, 2)
    assert read(b"??" + first + second, RULES, 2) == ([1], 2 + len(first))
    assert read(first + second, RULES, len(first)) == ({"k": "v"}, len(first + second))


def test_shared_lists_stay_shared() -> None:
    value, _ = read(pickle.dumps([["x"]] * 2, 2), RULES)
    assert value[0] is value[1]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"cos\nsystem\n.", "os.system"),
        (b"(cos\nsystem\n.", "os.system"),
        (b"\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"ctorch\nFloatStorage\n)R.", "torch.FloatStorage"),
        (b"ccollections\nOrderedDict\nK\x01R.", "collections.OrderedDict"),
        (b"]K\x01b.", "state of a list"),
        (b"K\x01Q.", "outside itself"),
        (b"0.", "POP"),
        (b"(K\x01K\x02o.", "OBJ"),
        (b"\x80\x05\x96\x00\x00\x00\x00\x00\x00\x00\x00.", "BYTEARRAY8"),
    ],
)
def test_code_is_refused_by_name(data: bytes, word: str) -> None:
    with pytest.raises(UnsafeInput, match=word):
        read(data, RULES)


def test_a_name_from_the_stack_is_shown_even_where_its_opcode_is_refused() -> None:
    with pytest.raises(UnsafeInput, match=r"STACK_GLOBAL for posix\.system"):
        read(b"\x8c\x05posix\x8c\x06system\x93.", STRICT)
    with pytest.raises(UnsafeInput, match="STACK_GLOBAL, a step"):
        read(b"K\x01K\x02\x93.", STRICT)
    with pytest.raises(UnsafeInput, match=r"INST for os system"):
        read(b"(ios\nsystem\n.", STRICT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"K",
        b".",
        b"]]",
        b"K\x01K\x02.",
        b"(K\x01.",
        b"h\x05.",
        b"q\x00.",
        b"t.",
        b"\x85.",
        b"K\x01\x87.",
        b"K\x01K\x02a.",
        b"}K\x01a.",
        b"K\x01K\x02K\x03s.",
        b"}(K\x01u.",
        b"}]K\x01s.",
        b"K\x01K\x02\x93.",
        b"conly one line",
        b"X\xff\xff\xff\xff.",
        b"X\x01\x00\x00\x00\xff.",
        b"ccollections\nOrderedDict\nK\x01K\x02K\x03\x87R.",
    ],
)
def test_damage_is_called_damage(data: bytes) -> None:
    with pytest.raises(UsageError, match="cut short or damaged"):
        read(data, RULES)


def test_long_pickles_and_long_texts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsafeInput, match="characters"):
        read(pickle.dumps("x" * 70_000, 2), RULES)
    monkeypatch.setattr(limits, "OPCODES", 5)
    with pytest.raises(UnsafeInput, match="more than 5 steps"):
        read(pickle.dumps(list(range(9)), 2), RULES)


def test_names_are_shown_without_control_characters() -> None:
    assert str(Global("evil\x1b[2J", "name\u202e")) == "evil?[2J.name?"
