"""Finding the state dict inside what people save."""

from typing import Any

import pytest

from edgekd.checkpoints import limits
from edgekd.checkpoints.layout import find, plain, strip
from edgekd.checkpoints.tensors import Storage, Tensor
from edgekd.errors import UnsafeInput, UsageError

T = Tensor(Storage("F32", 1), 0, (1,), (1,))
NET = {"conv.weight": T, "fc.bias": T}


@pytest.mark.parametrize(
    ("tree", "layout"),
    [
        (NET, ()),
        ({"net": NET, "acc": 84.5}, ("net",)),
        ({"state_dict": NET, "optimizer": {"state": {0: {"momentum_buffer": T}}}}, ("state_dict",)),
        ({"model_state_dict": {"module.conv.weight": T, "module.fc.bias": T}}, ("model_state_dict", "module.")),
        ({"model": {"state_dict": NET}}, ("model", "state_dict")),
        ({"something": NET, "scheduler": {"last": T}}, ("something",)),
        ({"a": {"b": {"c": NET}}, "epoch": 1}, ("a", "b", "c")),
        ([NET, 91.0], ("[0]",)),
        ((3, {"net": NET}), ("[1]", "net")),
        ({"_orig_mod.conv.weight": T, "_orig_mod.fc.bias": T}, ("_orig_mod.",)),
        ({"module._orig_mod.conv.weight": T, "module._orig_mod.fc.bias": T}, ("module.", "_orig_mod.")),
        ({"conv._orig_mod.weight": T, "fc.bias": T}, ("_orig_mod.",)),
        ({"state_dict": {"model.conv.weight": T, "model.fc.bias": T}}, ("state_dict", "model.")),
        ({"state_dict": NET, "best_acc": T}, ("state_dict",)),
        ({0: NET}, ("0",)),
    ],
)
def test_wrappings_come_off_and_are_named(tree: Any, layout: tuple[str, ...]) -> None:
    found = find(tree)
    assert found.layout == layout
    assert set(found.tensors) == set(NET)
    assert found.warnings == ()


def test_prefixes_that_belong_to_the_network_stay() -> None:
    for names in (
        ["features.0.weight", "features.3.weight"],
        ["layers.0.weight"],
        ["module.a", "b"],
        ["model.x", "fc.x"],
    ):
        assert strip(dict.fromkeys(names, T)) == (dict.fromkeys(names, T), [])
    assert strip({"module.": T}) == ({"module.": T}, [])
    assert strip({}) == ({}, [])


def test_order_is_kept() -> None:
    assert list(find({"net": {"z": T, "a": T, "m": T}}).tensors) == ["z", "a", "m"]


def test_the_usual_name_wins_and_the_others_are_mentioned() -> None:
    found = find({"ema": NET, "state_dict": NET, "teacher": NET})
    assert found.layout == ("state_dict",)
    assert found.warnings == ("It also holds weights under ema, teacher; those under state_dict were taken.",)


@pytest.mark.parametrize(
    ("tree", "word"),
    [
        ({}, "no tensors"),
        ({"a": 1, "b": ["x"]}, "no tensors"),
        (7, "no tensors"),
        ([T, T], "no tensors"),
        (T, "without a name"),
        ({"optimizer": {"state": {0: {"momentum_buffer": T}}}}, "no tensors"),
        ({"generator": NET, "critic": NET}, "several sets of weights \\(generator, critic\\)"),
        ({"net": {"net": {"net": {"net": {"net": {"net": {"net": NET}}}}}}}, "levels deep"),
        ({"conv weight": T}, "conv weight"),
        ({("a", "b"): T}, "letters"),
        ({3: T}, "letters"),
        ({"x" * 300: T}, "letters"),
        ({"a._orig_mod.w": T, "a.w": T}, "collide"),
    ],
)
def test_what_cannot_be_a_network(tree: Any, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        find(tree)


def test_cycles_and_shared_branches_end() -> None:
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    with pytest.raises(UsageError, match="no tensors"):
        find(cycle)
    bomb: list[Any] = []
    for _ in range(60):
        bomb = [bomb] * 60
    with pytest.raises(UsageError, match="no tensors"):
        find({"a": bomb, "b": bomb})


def test_too_many_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TENSORS", 1)
    with pytest.raises(UnsafeInput, match="holds 2 tensors"):
        find(NET)


def test_plain_values_are_kept_and_bounded() -> None:
    assert plain(True) is True
    assert plain("x" * 300) == "x" * 199 + "…"
    assert [plain(value) for value in (1, 2.5, float("inf"), 1 << 70, None, [1], T)] == [1, 2.5, *[None] * 5]
    found = find({"net": NET | {"inner": 3}, **{f"key{n}": n for n in range(100)}})
    assert len(found.metadata) == limits.METADATA_ENTRIES
    assert found.metadata["key0"] == 0
    assert find({"net": NET | {"inner": 3}, "note": "a\u202eb"}).metadata == {"inner": 3, "note": "a?b"}
