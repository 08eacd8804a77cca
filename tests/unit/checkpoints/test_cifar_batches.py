"""CIFAR's Python batches: the pickles that were published, later ones, and ones that lie."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_files import batch

from edgekd import checkpoints
from edgekd.checkpoints.numpy_batches import read_batch
from edgekd.checkpoints.numpy_values import (
    Array,
    Dtype,
    encode,
    make_array,
    make_dtype,
    make_scalar,
    set_array,
    set_dtype,
)
from edgekd.errors import UnsafeInput, UsageError

IMAGES = np.random.RandomState(0).randint(0, 256, (5, 3072), dtype=np.uint8)
LABELS = [3, 1, 4, 1, 5]


def test_the_published_form(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(batch(IMAGES.tobytes(), LABELS))
    images, labels = checkpoints.read_cifar_batch(tmp_path / "data_batch_1")
    assert images.dtype == np.uint8
    assert np.array_equal(images, IMAGES)
    assert labels == LABELS


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("key", ["labels", b"labels", "fine_labels", b"fine_labels"])
def test_batches_pickled_again(protocol: int, key: Any) -> None:
    value = {
        b"data" if isinstance(key, bytes) else "data": IMAGES,
        key: LABELS,
        "coarse_labels": [0] * 5,
        "filenames": ["a"],
    }
    assert read_batch(pickle.dumps(value, protocol)) == (LABELS, (5, 3072), IMAGES.tobytes())


def test_columns_first() -> None:
    data = batch(np.asfortranarray(IMAGES).tobytes("F"), LABELS, fortran=True)
    assert read_batch(data) == (LABELS, (5, 3072), IMAGES.tobytes())


@pytest.mark.parametrize(
    ("data", "error", "word"),
    [
        (batch(IMAGES.tobytes(), LABELS) + b"x", UsageError, "follow"),
        (pickle.dumps([1], 2), UsageError, "not a batch"),
        (pickle.dumps({"data": IMAGES}, 2), UsageError, "not a batch"),
        (pickle.dumps({"labels": [1]}, 2), UsageError, "not a batch"),
        (pickle.dumps({"data": IMAGES[:, :9].copy(), "labels": LABELS}, 2), UsageError, "CIFAR has"),
        (pickle.dumps({"data": IMAGES[0].copy(), "labels": LABELS}, 2), UsageError, "CIFAR has"),
        (batch(b"", []), UsageError, "CIFAR has"),
        (batch(IMAGES.tobytes(), LABELS[:4]), UsageError, "4 labels"),
        (batch(IMAGES.tobytes(), [3, 1, 4, 1, -5]), UsageError, "class numbers"),
        (batch(IMAGES.tobytes(), [3, 1, 4, 1, True]), UsageError, "class numbers"),
        (batch(IMAGES.tobytes(), LABELS, shape=(6, 3072)), UnsafeInput, "claims"),
        (batch(IMAGES.tobytes(), LABELS, dtype=b"i1"), UnsafeInput, "uint8"),
        (batch(IMAGES.tobytes(), LABELS, dtype=b"O8"), UnsafeInput, "plain number"),
        (batch(IMAGES.tobytes(), LABELS, endian=b">"), UsageError, "little-endian"),
        (b"\x80\x02cos\nsystem\n.", UnsafeInput, "os.system.*binary release"),
        (b"\x80\x02cnumpy\ndtype\nQ.", UnsafeInput, "BINPERSID"),
        (pickle.dumps({"data": np.array([{}], object), "labels": [0]}, 2), UnsafeInput, "plain number"),
    ],
)
def test_batches_that_are_none(data: bytes, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        read_batch(data)


def test_builders_reject_what_numpy_does_not_write() -> None:
    assert make_dtype("<f8") == Dtype("f8")
    assert make_scalar(Dtype("i2"), b"\x01\x00") == 1
    assert encode("\xff", "latin1") == b"\xff"
    for call, arguments in [
        (set_dtype, (Dtype("u1"), 3)),
        (make_scalar, ("f8", b"")),
        (make_scalar, (Dtype("f8"), b"short")),
        (encode, (b"x", "latin1")),
        (encode, ("x", "utf-7")),
        (set_array, (Array(), (1, 2))),
        (set_array, (Array(), (1, (-1,), Dtype("u1"), False, b""))),
        (set_array, (Array(), (1, 5, Dtype("u1"), False, b""))),
    ]:
        with pytest.raises(UsageError):
            call(*arguments)
    with pytest.raises(UnsafeInput, match="something other"):
        make_array("ndarray")
    with pytest.raises(UnsafeInput, match="plain number"):
        make_dtype(3)


def test_a_child_that_answers_too_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd.checkpoints import sandbox

    (tmp_path / "batch").write_bytes(b"x")
    for answer in (({"labels": [1]}, b"few"), ({}, b"")):
        monkeypatch.setattr(sandbox, "run", lambda *_, answer=answer, **__: answer)
        with pytest.raises(UsageError, match="do not fit"):
            checkpoints.read_cifar_batch(tmp_path / "batch")
