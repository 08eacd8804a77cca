"""Plain ``.npz`` files: images uint8 [N, H, W, C] or [N, H, W], labels [N], optionally class_names."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgekd.data.images import shown_name
from edgekd.errors import UsageError
from edgekd_device.arrays import read_npz


class Read(NamedTuple):
    """What a format reads; files: of every image, relative to the path, where each has one."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    files: tuple[str, ...] = ()


def parts(path: Path) -> tuple[str, ...]:
    """Which of train and test stand at ``path`` as PART.npz; a file is one whole."""
    if path.is_dir():
        return tuple(part for part in ("train", "test") if (path / f"{part}.npz").is_file())
    return ("whole",) if path.suffix == ".npz" else ()


def read(path: Path, part: str, size: tuple[int, int] | None, limit_bytes: int) -> Read:
    """Images uint8 [N, C, H, W], labels int64 [N] and class names; raises UsageError or UnsafeInput."""
    path = path / f"{part}.npz" if path.is_dir() else path
    arrays = read_npz(path, limit_bytes=limit_bytes)
    lacking = [name for name in ("images", "labels") if name not in arrays]
    if lacking:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise UsageError(
            f"{path} has no array {' and no '.join(lacking)}; it holds {found}. "
            "Write it with numpy.savez(path, images=..., labels=...)."
        )
    images, labels = _pixels(path, arrays["images"]), _labels(path, arrays["labels"])
    names = arrays.get("class_names")
    if names is None:
        return Read(images, labels, tuple(str(label) for label in range(int(labels.max(initial=-1)) + 1)))
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise UsageError(f"class_names of {path} is {names.dtype} {list(names.shape)}, expected a list of text.")
    texts = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names.tolist()]
    return Read(images, labels, tuple(shown_name(text) for text in texts))


def _pixels(path: Path, images: np.ndarray) -> np.ndarray:
    if images.dtype.kind == "f":
        high = float(np.nanmax(images)) if images.size else 0.0
        scaled = "images * 255" if high <= 1.5 else "images"
        raise UsageError(
            f"The images of {path} are {images.dtype} up to {high:.3g}; edgekd reads uint8 pixels. "
            f"Undo any normalisation, then save ({scaled}).round().clip(0, 255).astype('uint8')."
        )
    if images.dtype != np.uint8:
        raise UsageError(
            f"The images of {path} are {images.dtype}; edgekd reads uint8 pixels. Save images.astype('uint8')."
        )
    if images.ndim == 3:
        return np.ascontiguousarray(images[:, None])
    if images.ndim != 4:
        raise UsageError(
            f"The images of {path} have the shape {list(images.shape)}, expected [N, H, W, C] or [N, H, W]."
        )
    if images.shape[3] == 4:
        raise UsageError(f"The images of {path} have 4 channels; drop the alpha channel: images[..., :3].")
    if images.shape[3] not in (1, 3):
        hint = " It looks like [N, C, H, W]: save images.transpose(0, 2, 3, 1)." if images.shape[1] in (1, 3) else ""
        raise UsageError(
            f"The images of {path} have the shape {list(images.shape)}, "
            f"expected [N, H, W, C] with 1 or 3 channels.{hint}"
        )
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _labels(path: Path, labels: np.ndarray) -> np.ndarray:
    if labels.ndim != 1:
        hint = " One-hot labels: save labels.argmax(1)." if labels.ndim == 2 else ""
        raise UsageError(f"The labels of {path} have the shape {list(labels.shape)}, expected [N].{hint}")
    if labels.dtype.kind not in "iu":
        raise UsageError(f"The labels of {path} are {labels.dtype}, expected integers. Save labels.astype('int64').")
    if labels.size and (int(labels.min()) < 0 or int(labels.max()) >= 1_000_000):
        raise UsageError(f"The labels of {path} run from {labels.min()} to {labels.max()}: out of range.")
    return labels.astype(np.int64)
