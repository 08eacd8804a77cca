"""Descriptions of tensors: bounds, order of the items, the safetensors file made of them."""

import itertools
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.checkpoints.tensors import Storage, Tensor, checked, pack
from edgekd.errors import UnsafeInput, UsageError


def storage(numel: int = 24, dtype: str = "F32") -> Storage:
    values = np.arange(numel).astype({"F32": "<f4", "BOOL": "<u1", "F64": "<f8"}[dtype])
    return Storage(dtype, numel, memoryview(values.tobytes()))


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7)), max_size=4),
    st.integers(-1, 30),
)
@settings(max_examples=300, deadline=None)
def test_only_views_inside_the_storage_pass_and_they_read_the_right_items(
    axes: list[tuple[int, int]], offset: int
) -> None:
    shape, stride = tuple(a for a, _ in axes), tuple(b for _, b in axes)
    wanted = [
        offset + sum(i * s for i, s in zip(index, stride, strict=True))
        for index in itertools.product(*map(range, shape))
    ]
    inside = offset >= 0 and all(0 <= item < 24 for item in wanted) and (wanted or offset <= 24)
    if inside:
        content = checked(storage(), offset, shape, stride).content()
        assert np.frombuffer(content, "<f4").tolist() == wanted
    else:
        with pytest.raises(UnsafeInput, match="outside its storage"):
            checked(storage(), offset, shape, stride)


def test_a_tensor_of_no_numbers_claims_no_huge_network() -> None:
    assert checked(storage(), 0, (0, 64), (64, 1)).nbytes == 0
    with pytest.raises(UnsafeInput, match="of no numbers"):
        checked(storage(), 0, (1 << 31, 0), (1, 1))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((None, 0, (1,), (1,)), "no storage"),
        ((storage(), True, (1,), (1,)), "no storage"),
        ((storage(), 0, (1,), (1, 1)), "differ in length"),
        ((storage(), 0, "shape", (1,)), "list of at most"),
        ((storage(), 0, (1,) * 9, (1,) * 9), "list of at most"),
        ((storage(), 0, (True,), (1,)), "True"),
        ((storage(), 0, (1 << 40,), (0,)), str(1 << 40)),
    ],
)
def test_malformed_descriptions(arguments: tuple, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        checked(*arguments)


def test_a_storage_takes_its_claimed_size_only() -> None:
    empty = Storage("F32", 3)
    with pytest.raises(UsageError, match="missing"):
        checked(empty, 0, (3,), (1,)).content()
    with pytest.raises(UnsafeInput, match="claims 3"):
        empty.fill(memoryview(bytes(11)))
    empty.fill(memoryview(struct.pack("<3f", 1, 2, 3)))
    assert checked(empty, 1, (2,), (1,)).content() == struct.pack("<2f", 2, 3)


def test_true_and_false_hold_nothing_else() -> None:
    with pytest.raises(UsageError, match="true and false"):
        checked(storage(3, "BOOL"), 0, (3,), (1,)).content()
    assert bytes(checked(storage(2, "BOOL"), 0, (2,), (1,)).content()) == b"\0\1"


def test_packed_tensors_are_a_safetensors_file() -> None:
    tensors = {
        "plain": checked(storage(), 0, (2, 12), (12, 1)),
        "turned": checked(storage(), 0, (12, 2), (1, 12)),
        "expanded": checked(storage(1), 0, (5,), (0,)),
        "scalar": checked(storage(), 3, (), ()),
        "empty": checked(storage(), 24, (0, 4), (4, 1)),
        "double": checked(storage(4, "F64"), 1, (3,), (1,)),
    }
    found = safetensors.numpy.load(b"".join(pack(tensors, 1000)))
    items = np.arange(24, dtype=np.float32)
    assert np.array_equal(found["plain"], items.reshape(2, 12))
    assert np.array_equal(found["turned"], items.reshape(2, 12).T)
    assert found["expanded"].tolist() == [0] * 5
    assert found["scalar"] == 3
    assert found["empty"].shape == (0, 4)
    assert found["double"].tolist() == [1, 2, 3]
    with pytest.raises(UnsafeInput, match="bomb"):
        list(pack(tensors, 100))


def test_rows_of_one_are_contiguous_whatever_their_stride() -> None:
    assert Tensor(storage(), 0, (1, 24), (99, 1)).contiguous
