"""A runtime that computes nothing: what is measured with it is the harness itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import OnProcessor, Settings

if TYPE_CHECKING:
    import numpy as np


class NullRunner(OnProcessor):
    """A Runner whose logits are the images' own pixels; only its latency means anything."""

    name = "null"
    version = "0"

    def __init__(self, settings: Settings | None = None) -> None:
        """There is nothing to set."""

    def open(self, model: bytes, threads: int) -> None:
        """Keep nothing."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        return images

    def close(self) -> None:
        """Nothing to give back."""
