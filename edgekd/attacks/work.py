"""Where an attack computes before the training begins, and what of it a killed run finds again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekd_device.arrays import read_npz

from ..files import canonical_json, sha256_bytes, write_npz
from ..training import Progress


@dataclass(frozen=True)
class Work:
    """The device of searches, the folder that keeps what they found, and what must be equal for a run to go on with it."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    folder: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)  # plain JSON
    progress: Progress | None = None

    def about(self) -> dict[str, Any]:
        """The identity as it is read back."""
        found: dict[str, Any] = json.loads(canonical_json(self.identity))
        return found

    def place(self, name: str) -> Path | None:
        """The folder of one part of the work."""
        return None if self.folder is None else self.folder / name

    def once(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What ``make`` makes, or made in a run of this identity that was killed since."""
        if self.folder is None:
            return make()
        file = self.folder / f"{name}.npz"
        identity = np.frombuffer(sha256_bytes(canonical_json(self.identity).encode()).encode(), np.uint8)
        if file.exists():
            kept = read_npz(file)
            if np.array_equal(kept["identity"], identity):
                found: np.ndarray = kept["found"]
                return found
        found = make()
        write_npz(file, f"attack.{name}", found=found, identity=identity)
        return found


ALONE = Work()  # on the CPU, kept nowhere
