"""Image folders and single pictures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd import data
from edgekd.data import folder as folder_format
from edgekd.errors import EnvironmentFault, UsageError
from edgekd_device import pictures

PIXELS = np.random.RandomState(1).randint(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def write(root: Path, **classes: list[np.ndarray]) -> Path:
    for name, images in classes.items():
        (root / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{number}.png")
    return root


def test_classes_and_files_are_read_in_sorted_order(tmp_path: Path) -> None:
    root = write(tmp_path / "all", dog=[PIXELS[2], PIXELS[3]], cat=[PIXELS[0], PIXELS[1]])
    (root / ".hidden").mkdir()
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "cat" / "notes.txt").write_text("not a picture")
    found = data.load(root)
    assert found.class_names == ("cat", "dog")
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert (found.images == PIXELS[:4].transpose(0, 3, 1, 2)).all()
    assert data.load(root).sha256 == found.sha256
    assert found.files == ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png")
    assert found.subset([3, 0]).file(0) == "dog/1.png"
    mapped = data.load(root, class_map={"cat": 1, "dog": 0})
    assert (mapped.file(2), mapped.class_names) == ("dog/0.png", ("dog", "cat"))


def test_a_file_name_that_is_no_text_is_shown_without_what_is_none(tmp_path: Path) -> None:
    write(tmp_path / "all", a=[PIXELS[0]], b=[PIXELS[1]])
    (tmp_path / "all" / "a" / "0.png").rename(tmp_path / "all" / "a" / os.fsdecode(b"x\xff\n.png"))
    assert data.load(tmp_path / "all").files == ("a/x.png", "b/0.png")


def test_parts_and_nested_pictures(tmp_path: Path) -> None:
    write(tmp_path / "train", a=[PIXELS[0]], b=[PIXELS[1], PIXELS[2]])
    write(tmp_path / "val", a=[PIXELS[3]], b=[PIXELS[4]])
    inner = tmp_path / "train" / "a" / "images"
    inner.mkdir()
    Image.fromarray(PIXELS[5]).save(inner / "deep.jpeg", quality=95)
    assert data.parts(tmp_path) == ("train", "test")
    assert data.load(tmp_path).labels.tolist() == [0, 0, 1, 1]
    assert len(data.load(tmp_path, part="test")) == 2
    assert data.load(tmp_path).files[0] == "train/a/0.png"
    assert data.parts(tmp_path / "val") == ("whole",)
    assert len(data.load(tmp_path / "val", part="test")) == 2


def test_grey_stays_grey_only_where_all_pictures_are(tmp_path: Path) -> None:
    grey = write(tmp_path / "grey", a=[PIXELS[0, ..., 0]], b=[PIXELS[1, ..., 0]])
    assert data.load(grey).shape == (1, 8, 8)
    mixed = write(tmp_path / "mixed", a=[PIXELS[0, ..., 0]], b=[PIXELS[1]])
    found = data.load(mixed)
    assert found.shape == (3, 8, 8)
    assert (found.images[0] == PIXELS[0, ..., 0]).all()


def test_palette_opaque_alpha_bitmap_and_cmyk_pictures(tmp_path: Path) -> None:
    root = tmp_path / "all"
    (root / "a").mkdir(parents=True)
    (root / "b").mkdir()
    image = Image.fromarray(PIXELS[0])
    image.quantize(16).save(root / "a" / "palette.png")
    opaque = image.convert("RGBA")
    opaque.save(root / "a" / "alpha.png")
    image.convert("1").save(root / "b" / "bitmap.png")
    image.convert("LA").save(root / "b" / "grey_alpha.png")
    image.convert("CMYK").save(root / "b" / "print.jpg", quality=95)
    found = data.load(root)
    assert found.shape == (3, 8, 8)
    assert (found.images[0] == PIXELS[0].transpose(2, 0, 1)).all()
    assert pictures.decode(root / "b" / "grey_alpha.png").mode == "L"


def test_transparent_palette_is_seen(tmp_path: Path) -> None:
    picture = Image.fromarray(PIXELS[0]).quantize(16)
    picture.save(tmp_path / "p.png", transparency=0)
    assert pictures.decode(tmp_path / "p.png").mode == "RGBA"


def test_resize_scales_the_short_side_and_cuts_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 200  # the middle quarter
    root = write(tmp_path / "all", a=[wide], b=[wide.transpose(1, 0, 2)])
    found = data.load(root, size=(5, 5))
    assert found.shape == (3, 5, 5)
    assert (found.images[:, :, 1:4, 1:4] == 200).all()  # what lies outside the middle quarter is cut off
    assert found.images.min() >= 100
    assert data.load(root, size=(20, 10)).shape == (3, 20, 10)


def test_a_long_thin_picture_is_not_scaled_into_a_bomb(tmp_path: Path) -> None:
    """1 x 100,000 pixels are few; covering 64 x 64 with them takes 400 million."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    Image.new("L", (100_000, 1)).save(tmp_path / "a" / "thin.png")
    Image.new("L", (64, 64)).save(tmp_path / "b" / "usual.png")
    with pytest.raises(UsageError, match=r"thin\.png is 100000 x 1: scaled"):
        data.load(tmp_path, size=(64, 64))


def test_more_pictures_than_memory_are_refused_before_decoding(tmp_path: Path) -> None:
    root = write(tmp_path / "all", a=[PIXELS[0]], b=[PIXELS[1]])
    with pytest.raises(UsageError, match="need 0 MiB"):
        folder_format.read(root, "train", None, limit_bytes=100)


def test_reading_pictures_without_pillow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(EnvironmentFault, match="pip install pillow"):
        pictures.header(tmp_path / "a.png")


def test_unreadable_and_bomb_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no picture"):
        pictures.decode(tmp_path / "absent.png")
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS[0]).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # Pillow warns above, refuses above twice that
    with pytest.raises(UsageError, match="too large"):
        pictures.decode(path)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="cannot be read"):
        pictures.decode("/proc/self/mem")  # a file whose first byte cannot be read


def test_pixels_of_grey_and_colour() -> None:
    assert pictures.pixels(Image.fromarray(PIXELS[0, ..., 0])).shape == (8, 8, 1)
    assert pictures.pixels(Image.fromarray(PIXELS[0])).shape == (8, 8, 3)
