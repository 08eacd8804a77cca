"""Fixtures for all tests: the shared files, a few hundred real images, tiny made-up ones. No network."""

from __future__ import annotations

import functools
import os
from pathlib import Path

# one thread, set before anything imports torch: tests may run beside each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# what runs tests beside each other sets it, and output would be as narrow as its terminal
os.environ.pop("COLUMNS", None)

import numpy as np
import pytest

_SHARED_PARTS = ("checkpoints/index.json", "checkpoints/SHA256SUMS", "data/cifar10_test.npz", "data/SHA256SUMS")


def _shared_or_reason() -> tuple[Path | None, str]:
    folder = Path(os.environ.get("EDGEKD_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    missing = [part for part in _SHARED_PARTS if not (folder / part).is_file()]
    if not missing:
        return folder, ""
    if folder.exists() and os.environ.get("CI"):
        pytest.fail(f"{folder} is there but lacks {', '.join(missing)}; in CI that is a failure, not a skip.")
    return None, f"needs the shared teachers and data; set EDGEKD_SHARED to their folder (looked in {folder})"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with third-party teachers and real images; the test is skipped where it is absent."""
    folder, reason = _shared_or_reason()
    if folder is None:
        pytest.skip(reason)
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Keep torch on one thread in tests that use it, without importing it for those that do not."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def complete_test_set(shared: Path):
    """A function from "cifar10", "cifar100" or "mnist" to its complete test set as an ImageSet, read once."""
    from benchmarks.prepare_data import decode_residuals
    from edgekd.data import ImageSet

    @functools.cache
    def read(dataset: str) -> ImageSet:
        if dataset == "mnist":
            pack = np.load(shared / "data" / "mnist.npz")
            pixels, labels = pack["x_test"][:, None], pack["y_test"]
        else:
            images, labels = decode_residuals(np.load(shared / "data" / f"{dataset}_test.npz"))
            pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        names = tuple(str(label) for label in range(int(labels.max()) + 1))
        return ImageSet(pixels, labels.astype(np.int64), names, f"{dataset}_test")

    return read


@pytest.fixture(scope="session")
def cifar_test(complete_test_set):
    """The first 500 CIFAR-10 test images as an ImageSet: 50 of each class."""
    import dataclasses

    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return dataclasses.replace(complete_test_set("cifar10").subset(range(500)), class_names=names)


@pytest.fixture(scope="session")
def bars():
    """A function from a number to so many made-up 3x16x16 images of 4 classes that a small network can tell apart."""
    from edgekd.data import ImageSet

    def made(count: int) -> ImageSet:
        labels = np.arange(count, dtype=np.int64) % 4
        images = np.random.RandomState(0).randint(0, 90, (count, 3, 16, 16), dtype=np.uint8)
        for index, label in enumerate(labels):
            images[index, :, 4 * label : 4 * label + 4, :] += 150
        return ImageSet(images, labels, ("first", "second", "third", "fourth"), "made up")

    return made


@pytest.fixture(scope="session")
def tiny_images(bars):
    return bars(160)


@pytest.fixture(scope="session")
def few_images(bars):
    return bars(48)


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A picture to cut patches from."""
    from PIL import Image

    file = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.kron(np.random.default_rng(0).integers(0, 255, (24, 24, 3)), np.ones((4, 4, 1)))
    Image.fromarray(pixels.astype(np.uint8)).save(file)
    return str(file)
