"""Image folders: one sub-folder per class, PNG or JPEG, optionally under train/ and test/ or val/."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edgekd.data.images import shown_name
from edgekd.data.npz import Read
from edgekd.errors import UsageError
from edgekd_device import pictures

_PART_NAMES = {"train": ("train",), "test": ("test", "val", "validation")}
_FOREIGN = (".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".heic", ".avif", ".jp2")


def parts(path: Path) -> tuple[str, ...]:
    """Which of train and test the folder holds; a folder of class sub-folders is one whole."""
    found = tuple(part for part in _PART_NAMES if _part_folder(path, part) is not None)
    return found or (("whole",) if path.is_dir() else ())


def read(path: Path, part: str, size: tuple[int, int] | None, limit_bytes: int) -> Read:
    """Images uint8 [N, C, H, W], labels int64 [N], class names in sorted order, files; 1 channel where all are grey.

    With ``size`` = (H, W) every picture is scaled (bilinear, short side) and its centre cut out. Raises UsageError
    naming the picture or folder at fault.
    """
    root = _part_folder(path, part) or path  # an undivided folder is read whole
    classes = sorted((entry for entry in root.iterdir() if _is_class(entry)), key=lambda entry: entry.name)
    if not classes:
        raise UsageError(f"{root} has no class sub-folders. Put the pictures of each class into their own folder.")
    files, labels = [], []
    for label, folder in enumerate(classes):
        found = _pictures(folder)
        if not found:
            raise UsageError(f"The class folder {folder} is empty: it holds no PNG or JPEG picture.")
        files += found
        labels += [label] * len(found)
    height, width, grey = _common_shape(files, size)
    channels = 1 if grey else 3
    if len(files) * channels * height * width > limit_bytes:
        raise UsageError(
            f"{len(files)} pictures of {height} x {width} need {len(files) * channels * height * width >> 20} MiB, "
            f"more than this machine's {limit_bytes >> 20} MiB. Give a smaller size or fewer pictures."
        )
    images = np.empty((len(files), channels, height, width), np.uint8)
    for index, file in enumerate(files):
        images[index] = _decoded(file, height, width, grey)
    names = tuple(shown_name(folder.name) for folder in classes)
    return Read(images, np.array(labels, np.int64), names, tuple(_shown(file.relative_to(path)) for file in files))


def _part_folder(path: Path, part: str) -> Path | None:
    for name in _PART_NAMES[part]:
        if (path / name).is_dir():
            return path / name
    return None


def _shown(file: Path) -> str:
    """A path fit to be stored and printed: a file's name may be no text at all."""
    return "/".join(shown_name(part) for part in file.parts)


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith((".", "__"))


def _pictures(folder: Path) -> list[Path]:
    """Every picture below ``folder``, sorted; other files are passed over, other picture formats refused."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in _FOREIGN:
                raise UsageError(f"{Path(place) / name} is not a PNG or JPEG picture. Convert or remove it.")
            if suffix in pictures.SUFFIXES:
                found.append(Path(place) / name)
    return sorted(found)


def _common_shape(files: list[Path], size: tuple[int, int] | None) -> tuple[int, int, bool]:
    """Height and width of all pictures, and whether all are grey, from their headers alone."""
    first, grey = None, True
    for file in files:
        width, height, is_grey = pictures.header(file)
        grey = grey and is_grey
        first = first or (file, height, width)
        if size is None and (height, width) != first[1:]:
            raise UsageError(
                f"{file} is {height} x {width} (height x width) but {first[0]} is {first[1]} x {first[2]}: mixed "
                "sizes. Give --image-size PIXELS, the input size of the teacher for example (from Python: size=(H, W))."
            )
    assert first is not None
    height, width = size or first[1:]
    return height, width, grey


def _decoded(file: Path, height: int, width: int, grey: bool) -> np.ndarray:
    picture = pictures.decode_opaque(file)
    picture = pictures.resize(picture if grey else picture.convert("RGB"), height, width, file)
    decoded: np.ndarray = pictures.pixels(picture).transpose(2, 0, 1)
    return decoded
