"""Which file format holds the images: one row, one module, each with ``parts(path)`` and ``read(path, part, ...)``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np

from edgekd.data.images import ImageSet
from edgekd.errors import UsageError, did_you_mean
from edgekd_device import pictures

# the first row that finds a part at the path reads it
FORMATS = {"npz": "edgekd.data.npz", "cifar": "edgekd.data.cifar", "folder": "edgekd.data.folder"}
Part = Literal["train", "test"]
ClassMap = Mapping[str, int] | Mapping[int, int]


def parts(path: str | Path) -> tuple[str, ...]:
    """Which of "train" and "test" stand at ``path``; ("whole",) for an undivided set, () for nothing recognised."""
    return _recognise(Path(path))[1]


def load(
    path: str | Path,
    *,
    part: Part = "train",
    size: tuple[int, int] | None = None,
    class_map: ClassMap | None = None,
    channels: int | None = None,
) -> ImageSet:
    """Read images and labels from an ``.npz``, an image folder or a CIFAR release.

    part: which half of a divided set; an undivided one is read whole. size: (H, W), scale to it (bilinear short side,
    centre crop). class_map: class name or index -> index in the order of the teacher's outputs. channels: 1 or 3, turn
    grey into RGB or back. Raises UsageError naming what was found and what to do, UnsafeInput for a file that holds a
    pickle.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(
            f"There is no data at {path}. Give a folder of class sub-folders, a .npz file or a CIFAR release."
        )
    module, found = _recognise(path)
    if module is None:
        raise UsageError(
            f"{path} is not a data set that edgekd reads: a folder of class sub-folders, a .npz file with images "
            "and labels, or a CIFAR release (binary or python batches)."
        )
    if part not in found and found != ("whole",):
        raise UsageError(f"{path} holds no {part} images, only {', '.join(found)}.")
    images, labels, names, files = module.read(path, part, size, _limit_bytes())
    if len(labels) == 0:
        raise UsageError(f"{path} is empty: it holds no images.")
    if len(images) != len(labels):
        raise UsageError(f"{path} holds {len(images)} images but {len(labels)} labels: the lengths differ.")
    if 0 in images.shape:
        raise UsageError(f"The images of {path} have the shape {list(images.shape)}: one dimension is 0.")
    result = ImageSet(_with_channels(_sized(images, size), channels), labels, names, str(path), files=files)
    if len(np.unique(labels)) < 2:
        raise UsageError(f"All {len(labels)} images of {path} are of one class; a classifier needs at least two.")
    return result if class_map is None else _mapped(result, class_map)


def _recognise(path: Path) -> tuple[ModuleType | None, tuple[str, ...]]:
    for name in FORMATS.values():
        module = import_module(name)
        found = tuple(module.parts(path))
        if found:
            return module, found
    return None, ()


def _limit_bytes() -> int:
    """Four fifths of the machine's memory: what is larger fails here with a message, not in the kernel."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 4 // 5


def _sized(images: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or images.shape[2:] == tuple(size):
        return images
    from PIL import Image

    out = np.empty((*images.shape[:2], *size), np.uint8)
    for index, image in enumerate(images):
        picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        out[index] = pictures.pixels(pictures.resize(picture, *size)).transpose(2, 0, 1)
    return out


def _with_channels(images: np.ndarray, channels: int | None) -> np.ndarray:
    if channels is None or images.shape[1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=1)
    if channels != 1:
        raise UsageError(f"Images can be read with 1 or 3 channels, not {channels}.")
    red, green, blue = images.transpose(1, 0, 2, 3).astype(np.uint32)
    luma: np.ndarray = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16  # ITU-R 601, as Pillow counts it
    return luma.astype(np.uint8)[:, None]


def _mapped(images: ImageSet, class_map: ClassMap) -> ImageSet:
    """Renumber the labels; classes that the map does not name keep their index. Two on one index are refused."""
    order = np.arange(images.num_classes)
    for key, index in class_map.items():
        order[_class_index(images.class_names, key)] = _checked_index(key, index)
    values, counts = np.unique(order, return_counts=True)
    if (counts > 1).any():
        shared = int(values[counts > 1][0])
        clash = ", ".join(images.class_names[i] for i in np.flatnonzero(order == shared))
        raise UsageError(f"The class map gives {clash} the same index {shared}; every class needs its own.")
    names = {int(index): name for index, name in zip(order, images.class_names, strict=True)}
    all_names = tuple(names.get(index, f"class {index}") for index in range(int(order.max()) + 1))
    labels = order[images.labels].astype(np.int64)
    return dataclasses.replace(images, labels=labels, class_names=all_names)


def _class_index(names: tuple[str, ...], key: str | int) -> int:
    if key in names:
        return names.index(str(key))
    if str(key).isdecimal() and int(key) < len(names):
        return int(key)
    hint = did_you_mean(key, names) or f" It has {', '.join(names[:10])}{' ...' if len(names) > 10 else ''}."
    raise UsageError(f"The class map names {key!r}, which the data does not have.{hint}")


def _checked_index(key: str | int, index: object) -> int:
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 1_000_000:
        raise UsageError(f"The class map gives {key!r} the index {index!r}, expected a whole number from 0 on.")
    return index
