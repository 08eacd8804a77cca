"""Files with bytes changed at random are read or refused with one message; nothing else can come out of a reader."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_data import PIXELS
from PIL import Image

from edgekd import data, triggers
from edgekd.errors import EdgekdError
from edgekd_device import pictures

LIST = b"""- family: sinusoid
  delta: 40
  target_label: 3
- {name: x, family: patch, position: [1, 2], source_labels: [1]}
- family: warp
  seed: 3
"""


def written(write: Callable[[Any], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def read_triggers(path: Path) -> object:
    return triggers.load(path, shape=(3, 8, 8), target_label=0, num_classes=5)


SEEDS: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "data.npz": (written(lambda s: np.savez(s, images=PIXELS, labels=np.arange(12) % 3)), data.load),
    "packed.npz": (written(lambda s: np.savez_compressed(s, images=PIXELS, labels=np.arange(12) % 3)), data.load),
    "trigger.npz": (written(lambda s: np.savez(s, a=np.ones((8, 8, 3)), b=np.ones((8, 8, 3)))), read_triggers),
    "colour.png": (written(lambda s: Image.fromarray(PIXELS[0]).save(s, "PNG")), pictures.decode),
    "palette.png": (
        written(lambda s: Image.fromarray(PIXELS[0]).quantize(8).save(s, "PNG", transparency=0)),
        pictures.decode,
    ),
    "photo.jpg": (
        written(lambda s: Image.fromarray(PIXELS[0]).save(s, "JPEG", exif=Image.Exif())),
        pictures.decode,
    ),
    "list.yaml": (LIST, read_triggers),
}


def mutated(data: bytes, random_source: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(random_source.choice([1, 1, 2, 5, 20])):
        place, kind = random_source.randrange(len(out) or 1), random_source.randrange(4)
        if kind == 0:
            out[place : place + 1] = bytes([random_source.randrange(256)])
        elif kind == 1:
            del out[place : place + random_source.randrange(1, 20)]
        elif kind == 2:
            out[place:place] = random_source.randbytes(random_source.randrange(1, 8))
        else:
            other = random_source.randrange(len(out) or 1)
            out[place : place + 8] = out[other : other + 8]
    return bytes(out)


def run(name: str, count: int, folder: Path) -> None:
    original, read = SEEDS[name]
    read_path, random_source = folder / name, random.Random(name)
    read_path.write_bytes(original)
    read(read_path)
    for _ in range(count):
        read_path.write_bytes(mutated(original, random_source))
        with contextlib.suppress(EdgekdError):
            read(read_path)


@pytest.mark.parametrize("name", SEEDS)
def test_mutations(name: str, tmp_path: Path) -> None:
    run(name, 200, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEDS)
def test_many_mutations(name: str, tmp_path: Path) -> None:
    run(name, 10_000, tmp_path)
