"""Plain .npz files and the bounded reader beneath them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekd import data
from edgekd.data.images import shown_name
from edgekd.errors import UsageError
from edgekd_device import arrays, bundle

PIXELS = np.random.RandomState(0).randint(0, 256, (10, 6, 4, 3), dtype=np.uint8)
LABELS = np.arange(10, dtype=np.int64) % 3


def test_colour_images_come_out_channels_first(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=PIXELS, labels=LABELS.astype(np.uint8), class_names=np.array(["a", "b", "c"]))
    found = data.load(tmp_path / "d.npz")
    assert (found.images == PIXELS.transpose(0, 3, 1, 2)).all()
    assert found.images.flags.c_contiguous
    assert found.labels.dtype == np.int64
    assert (found.labels == LABELS).all()
    assert found.class_names == ("a", "b", "c")
    assert (len(found), found.num_classes, found.shape) == (10, 3, (3, 6, 4))


def test_grey_images_need_no_channel_axis(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", images=PIXELS[..., 0], labels=LABELS)
    found = data.load(tmp_path / "d.npz")
    assert found.shape == (1, 6, 4)
    assert found.class_names == ("0", "1", "2")


def test_folder_of_two_files_has_two_parts(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", images=PIXELS, labels=LABELS)
    np.savez(tmp_path / "test.npz", images=PIXELS[:4], labels=LABELS[:4])
    assert data.parts(tmp_path) == ("train", "test")
    assert len(data.load(tmp_path, part="test")) == 4
    assert data.parts(tmp_path / "test.npz") == ("whole",)
    assert len(data.load(tmp_path / "test.npz", part="test")) == 4


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_python_unpacks_whole_are_refused(method: int, tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(4, np.uint8))
    with zipfile.ZipFile(tmp_path / "d.npz", "w", method) as archive:
        archive.writestr("images.npy", stream.getvalue())
    with pytest.raises(UsageError, match="packed in a way that numpy does not write"):
        arrays.read_npz(tmp_path / "d.npz")


def test_an_array_larger_than_the_machine_is_one_message(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (1 << 60,)})
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("images.npy", stream.getvalue())
    with pytest.raises(UsageError, match="more than this machine has"):
        arrays.read_npz(tmp_path / "d.npz", limit_bytes=1 << 61)


@pytest.mark.parametrize("name", ["caf\u00a0e", "a\u2028b", "\u200b", "\ue000x", "", "\u3000"])
def test_class_names_are_what_a_bundle_takes(name: str) -> None:
    assert bundle.FIELDS["class_names"]([shown_name(name)])


def test_class_names_lose_control_and_direction_marks(tmp_path: Path) -> None:
    names = np.array(["e\u0301", "a\u202eb\x1b[31m", "x" * 300])
    np.savez(tmp_path / "d.npz", images=PIXELS, labels=LABELS, class_names=names)
    assert data.load(tmp_path / "d.npz").class_names == ("é", "ab[31m", "x" * 128)
    np.savez(tmp_path / "d.npz", images=PIXELS, labels=LABELS, class_names=np.array([b"a", b"b", b"c"]))
    assert data.load(tmp_path / "d.npz").class_names == ("a", "b", "c")


def test_channels_and_size_on_request(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=PIXELS, labels=LABELS)
    grey = data.load(tmp_path / "d.npz", channels=1, size=(6, 6))
    assert grey.shape == (1, 6, 6)
    np.savez(tmp_path / "g.npz", images=PIXELS[..., 0], labels=LABELS)
    colour = data.load(tmp_path / "g.npz", channels=3)
    assert (colour.images[:, 1] == PIXELS[..., 0]).all()
    assert data.load(tmp_path / "g.npz", size=(12, 12)).shape == (1, 12, 12)
    with pytest.raises(UsageError, match="1 or 3 channels"):
        data.load(tmp_path / "d.npz", channels=2)


def test_grey_of_a_colour_is_pillows(tmp_path: Path) -> None:
    from PIL import Image

    np.savez(tmp_path / "d.npz", images=PIXELS, labels=LABELS)
    found = data.load(tmp_path / "d.npz", channels=1)
    assert (found.images[3, 0] == np.asarray(Image.fromarray(PIXELS[3]).convert("L"))).all()


def test_class_map_renumbers_and_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=PIXELS, labels=LABELS, class_names=np.array(["cat", "dog", "cow"]))
    swapped = data.load(tmp_path / "d.npz", class_map={"cat": 1, "dog": 0})
    assert (swapped.labels == np.array([1, 0, 2])[LABELS]).all()
    assert swapped.class_names == ("dog", "cat", "cow")
    spread = data.load(tmp_path / "d.npz", class_map={"2": 4})
    assert spread.class_names == ("cat", "dog", "class 2", "class 3", "cow")
    with pytest.raises(UsageError, match="It has cat, dog, cow"):
        data.load(tmp_path / "d.npz", class_map={"zebra": 1})


def test_reader_returns_what_numpy_wrote(tmp_path: Path) -> None:
    wrote = {
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "scalar": np.array(7),
        "empty": np.zeros((0, 5), np.float32),
        "text": np.array(["one", "two"]),
    }
    np.savez(tmp_path / "a.npz", **wrote)
    found = arrays.read_npz(tmp_path / "a.npz")
    for name, array in wrote.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype
        assert (found[name] == array).all()
    assert found.keys() == wrote.keys()


def test_reader_takes_the_second_header_version(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.arange(5), version=(2, 0))
    _zip(tmp_path / "a.npz", {"x.npy": stream.getvalue()})
    assert (arrays.read_npz(tmp_path / "a.npz")["x"] == np.arange(5)).all()


def _zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _npy(shape: tuple[int, ...], payload: bytes, version: tuple[int, int] = (1, 0), kind: object = "|u1") -> bytes:
    header = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY" + bytes(version) + len(header).to_bytes(2, "little") + header + payload


@pytest.mark.parametrize(
    ("member", "word"),
    [
        (b"", "damaged"),
        (b"\x93NUMPY\x01\x00\x05", "damaged"),
        (_npy((3,), b"abc", (3, 0)), "format version 3.0"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", "header of"),
        (_npy((3,), b"ab"), "ends after 2 of 3"),
        (_npy((3,), b"abcd"), "more bytes than its header"),
        (_npy((-3,), b""), "shape"),
        (b"\x93NUMPY\x01\x00\x03\x00{{{", "damaged"),
        # numpy makes items of no width one wide: 10 GB where the header says none
        (_npy((10**10,), b"", kind="|S0"), "not plain numbers or text"),
        (_npy((10**10,), b"", kind="<U0"), "not plain numbers or text"),
        (_npy((10**10,), b"", kind="|V0"), "not plain numbers or text"),
        (_npy((2,), b"abcdefgh", kind=[("field", "<i4")]), "not plain numbers or text"),
        (_npy((1,), b"abcdefgh", kind="<M8[s]"), "not plain numbers or text"),
    ],
)
def test_reader_refuses_damaged_members(tmp_path: Path, member: bytes, word: str) -> None:
    _zip(tmp_path / "a.npz", {"x.npy": member})
    with pytest.raises(UsageError, match=word):
        arrays.read_npz(tmp_path / "a.npz")


def test_reader_refuses_folders_absent_files_and_crowds(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a file"):
        arrays.read_npz(tmp_path)
    with pytest.raises(UsageError, match="No such file"):
        arrays.read_npz(tmp_path / "absent.npz")
    _zip(tmp_path / "a.npz", {f"x{i}.npy": b"" for i in range(1001)})
    with pytest.raises(UsageError, match="1001 members"):
        arrays.read_npz(tmp_path / "a.npz")


def test_limit_counts_all_arrays_together(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(100, np.uint8), y=np.zeros(100, np.uint8))
    assert len(arrays.read_npz(tmp_path / "a.npz", limit_bytes=200)) == 2
    with pytest.raises(UsageError, match="only 99 are allowed"):
        arrays.read_npz(tmp_path / "a.npz", limit_bytes=199)
