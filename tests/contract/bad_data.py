"""Bad data, one row each: how to make it, the exit code it must end with, and a word its message must say."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class BadInput:
    """``make`` writes the input into a folder and returns its path; ``options`` go to the reader."""

    name: str
    make: Callable[[Path], Path]
    exit_code: int
    word: str
    options: dict[str, Any] = field(default_factory=dict)


LABELS = np.arange(12, dtype=np.int64) % 3
PIXELS = np.random.RandomState(0).randint(0, 256, (12, 8, 8, 3), dtype=np.uint8)


def npz(**arrays: Any) -> Callable[[Path], Path]:
    """A maker of an .npz with these arrays; images and labels are good unless given, left out when None."""

    def make(folder: Path) -> Path:
        kept = {k: v for k, v in {"images": PIXELS, "labels": LABELS, **arrays}.items() if v is not None}
        np.savez(folder / "data.npz", **kept)
        return folder / "data.npz"

    return make


def pictures(**classes: list[Any]) -> Callable[[Path], Path]:
    """A maker of an image folder: class -> pictures (Pillow image, array, or raw bytes)."""

    def make(folder: Path) -> Path:
        for name, contents in classes.items():
            (folder / "images" / name).mkdir(parents=True)
            for number, content in enumerate(contents):
                path = folder / "images" / name / f"{number}.png"
                if isinstance(content, bytes):
                    path.write_bytes(content)
                else:
                    picture = content if isinstance(content, Image.Image) else Image.fromarray(content)
                    picture.save(path)
        return folder / "images"

    return make


def png_bytes(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def _file(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def _empty_folder(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    return folder / "nothing"


def _empty_class(folder: Path) -> Path:
    path = pictures(cat=[PIXELS[0]], dog=[PIXELS[1]])(folder)
    (path / "empty").mkdir()
    (path / "empty" / "notes.txt").write_text("no picture")
    return path


def _truncated_npz(folder: Path) -> Path:
    path = npz()(folder)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def _wrong_checksum(folder: Path) -> Path:
    path = npz()(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 255
    path.write_bytes(bytes(data))
    return path


def _lying_header(folder: Path) -> Path:
    """An array of 12 images whose header promises 10**12 of them."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8, 3)})
    path = folder / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", stream.getvalue() + PIXELS.tobytes())
    return path


def _named_twice(folder: Path) -> Path:
    path = npz()(folder)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels", b"")
    return path


def _mixed_formats(folder: Path) -> Path:
    path = pictures(cat=[PIXELS[0]], dog=[PIXELS[1]])(folder)
    Image.fromarray(PIXELS[2]).save(path / "cat" / "scan.bmp")
    return path


def _short_cifar(folder: Path) -> Path:
    (folder / "test_batch.bin").write_bytes(b"\x01" * 3000)
    return folder


def _half_a_release(folder: Path) -> Path:
    for number in (1, 2, 4):
        (folder / f"data_batch_{number}.bin").write_bytes(b"\x01" + b"\x80" * 3072 + b"\x02" + b"\x10" * 3072)
    return folder


def _only_train(folder: Path) -> Path:
    path = pictures(cat=[PIXELS[0]], dog=[PIXELS[1]])(folder)
    (folder / "all").mkdir()
    path.rename(folder / "all" / "train")
    return folder / "all"


def _animated() -> bytes:
    frames = [Image.fromarray(image) for image in PIXELS[:2]]
    stream = io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    return stream.getvalue()


_NAMES = np.array(["cat", "dog", "cow"])
_HUGE = Image.new("L", (5000, 4100))
_CLEAR = Image.fromarray(np.dstack([PIXELS[0], np.full((8, 8), 90, np.uint8)]))
_DEEP = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900)

BAD_DATA = (
    BadInput("path that is not there", lambda folder: folder / "absent", 2, "no data at"),
    BadInput("text file", _file("data.txt", b"hello"), 2, "not a data set"),
    BadInput("empty folder", _empty_folder, 2, "no class sub-folders"),
    BadInput("no class folders", lambda f: pictures(cat=[PIXELS[0]])(f) / "cat", 2, "no class sub-folders"),
    BadInput("class folder without pictures", _empty_class, 2, "is empty"),
    BadInput("one class", pictures(cat=[PIXELS[0], PIXELS[1]]), 2, "one class"),
    BadInput("mixed sizes", pictures(cat=[PIXELS[0]], dog=[PIXELS[1][:4]]), 2, "mixed sizes"),
    BadInput("truncated picture", pictures(cat=[png_bytes(PIXELS[0])[:-40]], dog=[PIXELS[1]]), 2, "0.png"),
    BadInput("picture that is none", pictures(cat=[b"GIF89a not really"], dog=[PIXELS[1]]), 2, "not a PNG or JPEG"),
    BadInput("picture of no bytes", pictures(cat=[b""], dog=[PIXELS[1]]), 2, "0.png"),
    BadInput("another picture format", _mixed_formats, 2, "scan.bmp"),
    BadInput("huge picture", pictures(cat=[_HUGE], dog=[PIXELS[1]]), 2, "too large"),
    BadInput("transparent picture", pictures(cat=[_CLEAR], dog=[PIXELS[1]]), 2, "transparent"),
    BadInput("16-bit picture", pictures(cat=[_DEEP], dog=[PIXELS[1]]), 2, "8 bits"),
    BadInput("animated picture", pictures(cat=[_animated()], dog=[PIXELS[1]]), 2, "animated"),
    BadInput("no test part", _only_train, 2, "no test images", {"part": "test"}),
    BadInput("pickled array", npz(images=np.array([{"a": 1}], dtype=object)), 3, "pickle"),
    BadInput("pickle named .npz", _file("data.npz", b"\x80\x04K\x01."), 2, "not a complete .npz"),
    BadInput("truncated .npz", _truncated_npz, 2, "not a complete .npz"),
    BadInput("flipped byte", _wrong_checksum, 2, "data.npz"),
    BadInput("lying header", _lying_header, 2, "allowed"),
    BadInput("array named twice", _named_twice, 2, "twice"),
    BadInput("no labels", npz(labels=None), 2, "no array labels"),
    BadInput("float images", npz(images=(PIXELS / 255).astype(np.float32)), 2, "images * 255"),
    BadInput("int64 images", npz(images=PIXELS.astype(np.int64)), 2, "uint8"),
    BadInput("channels first", npz(images=PIXELS.transpose(0, 3, 1, 2)), 2, "transpose"),
    BadInput("alpha channel", npz(images=np.concatenate([PIXELS, PIXELS[..., :1]], 3)), 2, "alpha"),
    BadInput("flat images", npz(images=PIXELS.reshape(12, -1)), 2, "expected [N, H, W, C]"),
    BadInput("no pixels", npz(images=PIXELS[:, :0]), 2, "dimension is 0"),
    BadInput("no images", npz(images=PIXELS[:0], labels=LABELS[:0]), 2, "empty"),
    BadInput("lengths differ", npz(labels=LABELS[:7]), 2, "lengths differ"),
    BadInput("float labels", npz(labels=LABELS.astype(np.float32)), 2, "integers"),
    BadInput("one-hot labels", npz(labels=np.eye(3)[LABELS]), 2, "argmax"),
    BadInput("negative label", npz(labels=LABELS - 1), 2, "out of range"),
    BadInput("label without a name", npz(class_names=np.array(["a", "b"])), 2, "out of range"),
    BadInput("class names as numbers", npz(class_names=np.arange(3)), 2, "class_names"),
    BadInput("short CIFAR batch", _short_cifar, 2, "3073", {"part": "test"}),
    BadInput("CIFAR release with a part missing", _half_a_release, 2, "data_batch_3.bin"),
    BadInput("unknown class in the class map", npz(class_names=_NAMES), 2, "mean 'cat'", {"class_map": {"cta": 1}}),
    BadInput("two classes on one index", npz(), 2, "needs its own", {"class_map": {0: 1}}),
    BadInput("class map with a negative index", npz(), 2, "whole number", {"class_map": {0: -1}}),
)  # fmt: skip
