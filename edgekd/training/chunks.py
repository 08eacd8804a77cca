"""Epochs of any length, cut from a source's own: for training that is counted in steps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import TYPE_CHECKING

from .method import BatchSource

if TYPE_CHECKING:
    import torch

    from ..data import Batch


class Chunks:
    """A batch source whose epochs have ``steps`` steps; chunk n is the same whatever was asked before."""

    def __init__(self, source: BatchSource, steps: int) -> None:
        self.steps = steps
        self._source = source
        self._stream: Iterator[Batch] = iter(())
        self._next: int | None = None

    @property
    def labels(self) -> torch.Tensor:
        return self._source.labels

    def epoch(self, number: int, /) -> Iterator[Batch]:
        """The batches of chunk ``number``; a neighbour of the last one continues without a jump."""
        if number != self._next:
            first, skip = divmod(number * self.steps, self._source.steps)
            self._stream = islice((batch for n in count(first) for batch in self._source.epoch(n)), skip, None)
        self._next = None
        yield from islice(self._stream, self.steps)
        self._next = number + 1

    def once(self) -> Iterator[Batch]:
        """The source's own."""
        return self._source.once()
