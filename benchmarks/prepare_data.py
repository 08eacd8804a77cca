"""Decode the packs of the shared data folder once: plain .npz files, and Tiny-ImageNet as an image folder.

    python benchmarks/prepare_data.py [--shared FOLDER] [NAME ...]

Writes benchmarks/cache/data: images uint8 [N, H, W, C] (MNIST [N, H, W]), labels int64 [N], class_names. A pack is
checked against SHA256SUMS before it is decoded. Output that is there already, from the same packs, is left as it is.
"""

from __future__ import annotations

import argparse
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import files
from edgekd.errors import EnvironmentFault, UsageError

HERE = Path(__file__).resolve().parent
CACHE = HERE / "cache" / "data"
SHARED = "EDGEKD_SHARED"
FORMAT = 1  # raise it when the files written here change


@dataclass(frozen=True)
class Pack:
    """Files of the shared folder and what they are decoded to: a .npz file, or a folder of pictures."""

    sources: tuple[str, ...]
    output: str
    decode: Callable[[Sequence[Path], Path], None]


def shared_folder(given: str | Path | None = None) -> Path:
    """``given``, else $EDGEKD_SHARED, else ../shared beside the checkout. Raises UsageError where there is no data."""
    folder = Path(given or os.environ.get(SHARED) or HERE.parent.parent / "shared")
    if not (folder / "data" / "SHA256SUMS").is_file():
        raise UsageError(f"There is no data/SHA256SUMS in {folder}. Name the shared folder with --shared or ${SHARED}.")
    return folder


def prepare(name: str, shared: str | Path | None = None, cache: Path = CACHE) -> Path:
    """The decoded data set ``name``, made if it is not there yet. Raises UsageError for unknown or damaged packs."""
    if name not in PACKS:
        raise UsageError(f"There is no data set {name!r}; known are {', '.join(PACKS)}.")
    pack, folder = PACKS[name], shared_folder(shared) / "data"
    expected = _checksums(folder / "SHA256SUMS", pack.sources)
    output, stamp = cache / pack.output, cache / f"{name}.json"
    about = {"format": FORMAT, "sources": expected}
    if output.exists() and stamp.exists() and files.read_json(stamp) == about:
        return output
    for source, sha256 in expected.items():
        if not (folder / source).is_file() or files.sha256_file(folder / source) != sha256:
            raise UsageError(f"{folder / source} is not the file that SHA256SUMS speaks of. Copy it again.")
    pack.decode([folder / source for source in pack.sources], output)
    files.write_json(stamp, about, "stamp")  # last: without it the rest does not count
    return output


def few(name: str, count: int, seed: int = 0) -> Path:
    """``count`` images of the .npz data set ``name``, drawn at random, as a file of its own."""
    whole = prepare(name)
    output = whole.with_name(f"{whole.stem}-{count}-{seed}.npz")
    if not output.exists():
        arrays = _load(whole)
        chosen = np.sort(np.random.default_rng(seed).permutation(len(arrays["labels"]))[:count])
        _save(output, arrays["images"][chosen], arrays["labels"][chosen], [str(n) for n in arrays["class_names"]])
    return output


def _checksums(path: Path, names: Sequence[str]) -> dict[str, str]:
    lines = [line.split() for line in path.read_text("utf-8").splitlines()]
    sums = {words[1]: words[0] for words in lines if len(words) == 2}
    missing = [name for name in names if name not in sums]
    if missing:
        raise UsageError(f"{path} does not name {', '.join(missing)}.")
    return {name: sums[name] for name in names}


def _save(output: Path, images: Any, labels: Any, class_names: Sequence[str]) -> None:
    arrays = {"images": images, "labels": np.asarray(labels, np.int64), "class_names": np.array(class_names)}
    files.write_npz(output, "data", **arrays)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as pack:
            return {name: pack[name] for name in pack.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error


def decode_residuals(pack: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels from the packs' prediction residuals: (images uint8 [N, H, W, 3] RGB, labels [N])."""
    rows = np.cumsum(pack["d"], 2, dtype=np.uint8)
    green, red, blue = np.cumsum(rows, 3, dtype=np.uint8)  # red and blue are stored as differences from green
    return np.stack([red + green, green, blue + green], -1), pack["y"]


def _cifar(names: str) -> Callable[[Sequence[Path], Path], None]:
    def decode(sources: Sequence[Path], output: Path) -> None:
        *packs, classes = sources
        parts = [decode_residuals(_load(path)) for path in packs]
        images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        _save(output, images, labels, files.read_json(classes)[names])

    return decode


def _mnist(part: str) -> Callable[[Sequence[Path], Path], None]:
    def decode(sources: Sequence[Path], output: Path) -> None:
        pack = _load(sources[0])
        _save(output, pack[f"x_{part}"], pack[f"y_{part}"], [str(digit) for digit in range(10)])

    return decode


def _pictures(part: str) -> Callable[[Sequence[Path], Path], None]:
    """The original JPEG bytes as <output>/<class>/<number>.jpg."""

    def decode(sources: Sequence[Path], output: Path) -> None:
        pack = _load(sources[0])
        names = [str(name).replace(" ", "_") for name in pack["classes"]]
        blob, offsets = pack[f"jpg_{part}"].tobytes(), pack[f"off_{part}"]
        for index, label in enumerate(pack[f"y_{part}"]):
            path = output / names[int(label)] / f"{index:04d}.jpg"
            picture = blob[offsets[index] : offsets[index + 1]]
            if not path.exists() or path.read_bytes() != picture:  # a killed run left some
                files.write_bytes(path, picture, "picture")

    return decode


CLASSES = "classes.json"
TRAIN_PARTS = tuple(f"cifar10_train_p{part}.npz" for part in range(5))
PACKS = {
    "cifar10_train": Pack((*TRAIN_PARTS, CLASSES), "cifar10_train.npz", _cifar("cifar10")),
    "cifar10_test": Pack(("cifar10_test.npz", CLASSES), "cifar10_test.npz", _cifar("cifar10")),
    "cifar100_train": Pack(("cifar100_train_first10k.npz", CLASSES), "cifar100_train.npz", _cifar("cifar100")),
    "cifar100_test": Pack(("cifar100_test.npz", CLASSES), "cifar100_test.npz", _cifar("cifar100")),
    "mnist_train": Pack(("mnist.npz",), "mnist_train.npz", _mnist("train")),
    "mnist_test": Pack(("mnist.npz",), "mnist_test.npz", _mnist("test")),
    "tiny_imagenet_train": Pack(("tinyimagenet10_64.npz",), "tiny_imagenet/train", _pictures("train")),
    "tiny_imagenet_test": Pack(("tinyimagenet10_64.npz",), "tiny_imagenet/test", _pictures("test")),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: prepare the named data sets, or all of them, and print where they are."""
    parser = argparse.ArgumentParser(description="Decode the packs of the shared data folder to plain files, once.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(PACKS)} (default: all)")
    parser.add_argument("--shared", help=f"the shared folder (default: ${SHARED}, else ../shared)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where to write (default: benchmarks/cache/data)")
    chosen = parser.parse_args(argv)
    try:
        for name in chosen.names or PACKS:
            print(f"{name:<20} {prepare(name, chosen.shared, chosen.cache)}", flush=True)
    except (UsageError, EnvironmentFault) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
