"""CIFAR releases: binary files written here byte by byte, python batches through the restricted reader."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from edgekd import data
from edgekd.data import cifar
from edgekd.errors import UsageError

RANDOM = np.random.RandomState(3)


def binary(path: Path, count: int, label_bytes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    labels, pixels = RANDOM.randint(0, 10, (count, label_bytes)), RANDOM.randint(0, 256, (count, 3072))
    path.write_bytes(np.concatenate([labels, pixels], 1).astype(np.uint8).tobytes())
    return pixels.reshape(-1, 3, 32, 32).astype(np.uint8), labels[:, -1]


def test_cifar10_binary_release(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    wrote = [binary(folder / f"data_batch_{n}.bin", 20) for n in range(1, 6)]
    test_images, test_labels = binary(folder / "test_batch.bin", 30)
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert data.parts(tmp_path) == data.parts(folder) == ("train", "test")
    train = data.load(tmp_path)
    assert (train.images == np.concatenate([images for images, _ in wrote])).all()
    assert (train.labels == np.concatenate([labels for _, labels in wrote])).all()
    assert train.class_names == tuple("abcdefghij")
    test = data.load(tmp_path, part="test")
    assert (test.images == test_images).all()
    assert (test.labels == test_labels).all()


def test_one_binary_file_alone(tmp_path: Path) -> None:
    images, labels = binary(tmp_path / "test_batch.bin", 20)
    found = data.load(tmp_path / "test_batch.bin", part="test")
    assert (found.images == images).all()
    assert (found.labels == labels).all()
    assert found.class_names[3] == "cat"


def test_cifar100_binary_takes_the_fine_label(tmp_path: Path) -> None:
    images, labels = binary(tmp_path / "train.bin", 40, label_bytes=2)
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"class{i}" for i in range(100)))
    found = data.load(tmp_path)
    assert (found.images == images).all()
    assert (found.labels == labels).all()
    assert found.num_classes == 100
    assert len(data.load(tmp_path / "train.bin")) == 40


def python_batch(path: Path, count: int, key: bytes, classes: int) -> tuple[np.ndarray, list[int]]:
    pixels = RANDOM.randint(0, 256, (count, 3072)).astype(np.uint8)
    labels = [int(label) for label in RANDOM.randint(0, classes, count)]
    path.write_bytes(
        pickle.dumps({b"data": pixels, key: labels, b"batch_label": b"x", b"filenames": [b"f"] * count}, 2)
    )
    return pixels, labels


def test_python_batches(tmp_path: Path) -> None:
    pixels, labels = python_batch(tmp_path / "test_batch", 15, b"labels", 10)
    assert data.parts(tmp_path) == ("test",)
    found = data.load(tmp_path, part="test")
    assert (found.images == pixels.reshape(-1, 3, 32, 32)).all()
    assert found.labels.tolist() == labels
    assert found.class_names[0] == "airplane"
    alone = data.load(tmp_path / "test_batch")
    assert alone.sha256 == found.sha256


def test_cifar100_python_release_has_numbers_for_names(tmp_path: Path) -> None:
    python_batch(tmp_path / "train", 30, b"fine_labels", 100)
    found = data.load(tmp_path)
    assert found.num_classes == 100
    assert found.class_names[99] == "99"


def test_more_than_memory_is_refused_before_reading(tmp_path: Path) -> None:
    for n in range(1, 6):
        binary(tmp_path / f"data_batch_{n}.bin", 20)
    for path in (tmp_path, tmp_path / "data_batch_1.bin"):
        with pytest.raises(UsageError, match="more than this machine's 0 MiB"):
            cifar.read(path, "train", None, limit_bytes=20 * 3073 - 1)
    assert len(cifar.read(tmp_path / "data_batch_1.bin", "train", None, limit_bytes=20 * 3073)[0]) == 20
