"""The CIFAR-10 and CIFAR-100 releases (Krizhevsky 2009): the binary files, and the python batches, read restricted."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgekd.data.images import shown_name
from edgekd.data.npz import Read
from edgekd.errors import UsageError

_PIXELS = 3 * 32 * 32
_INNER_FOLDERS = ("cifar-10-batches-bin", "cifar-100-binary", "cifar-10-batches-py", "cifar-100-python")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class _Layout(NamedTuple):
    files: dict[str, tuple[str, ...]]  # part -> files
    label_bytes: int  # before each image; 0 for a python batch
    names: str  # file of class names, "" where there is none


_LAYOUTS = (
    _Layout(
        {"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)}, 1, "batches.meta.txt"
    ),
    _Layout({"train": ("train.bin",), "test": ("test.bin",)}, 2, "fine_label_names.txt"),
    _Layout({"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)}, 0, ""),
    _Layout({"train": ("train",), "test": ("test",)}, 0, ""),
)


def parts(path: Path) -> tuple[str, ...]:
    """Which of train and test a release's folder (or its parent) holds; one file of a release is one whole."""
    if path.is_file():
        named = path.suffix == ".bin" or path.name in (*_LAYOUTS[2].files["train"], "test_batch")
        return ("whole",) if named else ()
    found = _find(path)
    return () if found is None else tuple(part for part in ("train", "test") if _files(found[0], found[1].files[part]))


def read(path: Path, part: str, size: tuple[int, int] | None, limit_bytes: int) -> Read:
    """Images uint8 [N, 3, 32, 32], labels int64 [N] (CIFAR-100: the fine ones) and class names.

    Raises UsageError for a file of another length or damaged, UnsafeInput for a batch that holds more than arrays.
    """
    if path.is_file():
        _refuse_huge([path], limit_bytes)
        return _joined([_read_batch(path, _label_bytes(path))], None)
    found = _find(path)
    if found is None:
        raise UsageError(f"{path} does not hold a CIFAR release.")
    folder, layout = found
    files = _files(folder, layout.files[part])
    if len(files) < len(layout.files[part]):
        absent = ", ".join(name for name in layout.files[part] if not (folder / name).is_file())
        raise UsageError(f"{folder} lacks {absent}: the CIFAR release there is incomplete. Unpack it again.")
    _refuse_huge(files, limit_bytes)
    batches = [_read_batch(file, layout.label_bytes) for file in files]
    return _joined(batches, folder / layout.names if layout.names else None)


def _find(path: Path) -> tuple[Path, _Layout] | None:
    for folder in (path, *(path / name for name in _INNER_FOLDERS)):
        for layout in _LAYOUTS:
            if any(_files(folder, names) for names in layout.files.values()):
                return folder, layout
    return None


def _files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _refuse_huge(files: list[Path], limit_bytes: int) -> None:
    size = sum(file.stat().st_size for file in files)
    if size > limit_bytes:
        raise UsageError(
            f"{files[0].parent} needs {size >> 20} MiB, more than this machine's {limit_bytes >> 20} MiB: this is "
            "not a CIFAR release."
        )


def _label_bytes(path: Path) -> int:
    if path.suffix != ".bin":
        return 0
    length = path.stat().st_size
    return 1 if length % (_PIXELS + 1) == 0 else 2


def _read_batch(path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    if label_bytes == 0:
        from edgekd import checkpoints

        pixels, labels = checkpoints.read_cifar_batch(path)
        return np.asarray(pixels), np.asarray(labels, dtype=np.int64)
    record = label_bytes + _PIXELS
    data = np.fromfile(path, dtype=np.uint8)
    if not data.size or data.size % record:
        raise UsageError(
            f"{path} is {data.size} bytes long, not a multiple of {record}: truncated, or not the CIFAR binary release."
        )
    data = data.reshape(-1, record)
    return data[:, label_bytes:], data[:, label_bytes - 1].astype(np.int64)


def _joined(batches: list[tuple[np.ndarray, np.ndarray]], meta: Path | None) -> Read:
    images = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in batches])
    names: tuple[str, ...] = ()
    if meta is not None and meta.is_file():
        lines = meta.read_text("utf-8", "replace")[: 1 << 16].splitlines()
        names = tuple(shown_name(line.strip()) for line in lines if line.strip())
    if not names:
        top = int(labels.max(initial=-1))
        names = CIFAR10 if top < 10 else tuple(str(label) for label in range(max(100, top + 1)))
    return Read(np.ascontiguousarray(images), labels, names)
