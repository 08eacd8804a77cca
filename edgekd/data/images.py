"""ImageSet: images and labels in pixel space, checked once when it is made."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekd.errors import UsageError


@dataclass(frozen=True, eq=False)
class ImageSet:
    """images uint8 [N, C, H, W] (C is 1 or 3), labels int64 [N], a name per label, and where they came from.

    numbers: int64 [N], each image's place in ``source``, None for 0 to N - 1; files: a name for each such place, where
    the source is one of files.
    Raises UsageError for another dtype or shape, lengths that differ, or a label without a name.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    source: str = ""
    numbers: np.ndarray | None = None
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f" of {self.source}" if self.source else ""
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[1] not in (1, 3):
            raise UsageError(
                f"The images{where} are {self.images.dtype} {list(self.images.shape)}, "
                "expected uint8 [N, C, H, W] with 1 or 3 channels."
            )
        if self.labels.dtype != np.int64 or self.labels.ndim != 1:
            raise UsageError(
                f"The labels{where} are {self.labels.dtype} {list(self.labels.shape)}, expected int64 [N]."
            )
        if len(self.images) != len(self.labels):
            raise UsageError(f"{len(self.images)} images but {len(self.labels)} labels{where}: the lengths differ.")
        if len(self) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.num_classes:
            raise UsageError(
                f"The labels{where} run from {self.labels.min()} to {self.labels.max()}, out of range "
                f"for {self.num_classes} class names (0 to {self.num_classes - 1})."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of shape, pixels and labels; names, numbers and source do not count."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def subset(self, index: np.ndarray | Sequence[int]) -> ImageSet:
        """The images at ``index`` [M], in that order."""
        index = np.asarray(index, dtype=np.int64)
        numbers = np.arange(len(self)) if self.numbers is None else self.numbers
        return dataclasses.replace(self, images=self.images[index], labels=self.labels[index], numbers=numbers[index])

    def number(self, position: int) -> int:
        """The place in ``source`` of the image at ``position``."""
        return position if self.numbers is None else int(self.numbers[position])

    def file(self, position: int) -> str:
        """The file of the image at ``position``, relative to ``source``; empty where it has none of its own."""
        number = self.number(position)
        return self.files[number] if 0 <= number < len(self.files) else ""

    def with_labels(self, labels: np.ndarray) -> ImageSet:
        """The same images under other labels int64 [N], e.g. a teacher's."""
        return dataclasses.replace(self, labels=np.asarray(labels, dtype=np.int64))


def shown_name(text: object) -> str:
    """A class name fit to be printed: composed, without control or direction marks, 1 to 128 characters.

    Other spaces become plain ones; all of it is printable to Python, which is what a bundle's reader asks for.
    """
    composed = unicodedata.normalize("NFC", str(text))
    plain = "".join(" " if unicodedata.category(c)[0] == "Z" else c for c in composed)
    return "".join(c for c in plain if c.isprintable())[:128] or "?"
