from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import prepare_data
from edgekd import data
from edgekd.errors import UsageError

SEED = np.random.default_rng(3)


def residuals(images: np.ndarray) -> np.ndarray:
    """The packs' format: channels as green, red - green, blue - green, then differences along columns and rows."""
    red, green, blue = np.moveaxis(images, -1, 0)
    stacked = np.stack([green, red - green, blue - green])
    along = np.diff(stacked, axis=3, prepend=np.zeros_like(stacked[..., :1]))
    return np.diff(along, axis=2, prepend=np.zeros_like(along[:, :, :1]))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A shared folder with the packs' names and formats, and a few pixels."""
    folder = tmp_path / "shared" / "data"
    folder.mkdir(parents=True)
    classes = {"cifar10": [f"name {k}" for k in range(10)], "cifar100": [f"name {k}" for k in range(100)]}
    (folder / "classes.json").write_text(json.dumps(classes))
    for name in (*prepare_data.TRAIN_PARTS, "cifar10_test.npz"):
        images = SEED.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
        np.savez(folder / name, d=residuals(images), y=np.arange(20, dtype=np.uint8) % 10)
        np.save(folder / f"{name}.truth.npy", images)
    digits = {
        f"x_{part}": SEED.integers(0, 256, (n, 28, 28), dtype=np.uint8) for part, n in (("train", 30), ("test", 10))
    }
    np.savez(folder / "mnist.npz", y_train=np.arange(30) % 10, y_test=np.arange(10), **digits)
    pictures = {}
    for part, count in (("train", 6), ("test", 4)):
        blobs = []
        for _ in range(count):
            stream = io.BytesIO()
            Image.fromarray(SEED.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(stream, format="JPEG")
            blobs.append(stream.getvalue())
        pictures[f"jpg_{part}"] = np.frombuffer(b"".join(blobs), np.uint8)
        pictures[f"off_{part}"] = np.cumsum([0, *map(len, blobs)])
        pictures[f"y_{part}"] = np.arange(count, dtype=np.uint8) % 2
    np.savez(folder / "tinyimagenet10_64.npz", classes=np.array(["king penguin", "lemon"]), **pictures)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in folder.glob("*[zn]")]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    return tmp_path / "shared"


def test_pixels_come_back_exactly(small: Path, tmp_path: Path) -> None:
    path = prepare_data.prepare("cifar10_train", small, tmp_path / "cache")
    truth = np.concatenate([np.load(small / "data" / f"{name}.truth.npy") for name in prepare_data.TRAIN_PARTS])
    with np.load(path) as made:
        assert np.array_equal(made["images"], truth)
        assert made["labels"].dtype == np.int64
        assert made["class_names"][3] == "name 3"
    loaded = data.load(path)
    assert np.array_equal(loaded.images, np.moveaxis(truth, -1, 1))
    assert loaded.class_names[9] == "name 9"


def test_grey_digits_and_picture_folders_load(small: Path, tmp_path: Path) -> None:
    digits = data.load(prepare_data.prepare("mnist_test", small, tmp_path / "cache"))
    assert (digits.images.shape, digits.class_names[7]) == ((10, 1, 28, 28), "7")
    pictures = data.load(prepare_data.prepare("tiny_imagenet_train", small, tmp_path / "cache"), size=(64, 64))
    assert (len(pictures), pictures.class_names) == (6, ("king_penguin", "lemon"))


def test_what_stands_there_is_left_alone(small: Path, tmp_path: Path) -> None:
    path = prepare_data.prepare("mnist_test", small, tmp_path / "cache")
    first = (path.stat().st_mtime_ns, path.read_bytes())
    assert prepare_data.prepare("mnist_test", small, tmp_path / "cache").stat().st_mtime_ns == first[0]
    (tmp_path / "cache" / "mnist_test.json").unlink()  # as after a kill before the stamp
    assert prepare_data.prepare("mnist_test", small, tmp_path / "cache").read_bytes() == first[1]


def test_a_torn_picture_folder_is_completed(small: Path, tmp_path: Path) -> None:
    folder = prepare_data.prepare("tiny_imagenet_test", small, tmp_path / "cache")
    pictures = sorted(folder.rglob("*.jpg"))
    whole = [path.read_bytes() for path in pictures]
    pictures[0].unlink()
    pictures[1].write_bytes(b"torn")
    (tmp_path / "cache" / "tiny_imagenet_test.json").unlink()
    prepare_data.prepare("tiny_imagenet_test", small, tmp_path / "cache")
    assert [path.read_bytes() for path in pictures] == whole


def test_a_damaged_pack_is_refused(small: Path, tmp_path: Path) -> None:
    pack = small / "data" / "mnist.npz"
    pack.write_bytes(pack.read_bytes()[:-1] + b"?")
    with pytest.raises(UsageError, match="is not the file that SHA256SUMS speaks of"):
        prepare_data.prepare("mnist_train", small, tmp_path / "cache")
    assert not (tmp_path / "cache" / "mnist_train.npz").exists()


def test_a_missing_folder_or_name_is_told(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare_data.main(["--shared", str(tmp_path)]) == 2
    assert "Name the shared folder with --shared" in capsys.readouterr().err
    monkeypatch.setenv("EDGEKD_SHARED", str(small))
    assert prepare_data.main(["svhn", "--cache", str(tmp_path / "cache")]) == 2
    assert "There is no data set 'svhn'" in capsys.readouterr().err
    assert prepare_data.main(["mnist_test", "--cache", str(tmp_path / "cache")]) == 0
    (small / "data" / "SHA256SUMS").write_text("")
    assert prepare_data.main(["mnist_train", "--cache", str(tmp_path / "cache")]) == 2
    assert "does not name mnist.npz" in capsys.readouterr().err


def test_the_real_packs_decode(shared: Path, tmp_path: Path) -> None:
    with np.load(prepare_data.prepare("cifar10_test", shared, tmp_path)) as made:
        images, labels = made["images"], made["labels"]
    assert images.shape == (10_000, 32, 32, 3)
    assert np.array_equal(np.sort(labels[:10]), np.arange(10))
    assert np.bincount(labels).tolist() == [1000] * 10
    # the channel means of CIFAR-10's train set; the test set's are close
    assert images.mean((0, 1, 2)) / 255 == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.005)
