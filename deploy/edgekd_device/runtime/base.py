"""What an inference runtime must offer, and the table of those that exist."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol

from ..errors import EnvironmentFault, UsageError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

# name -> module, class; imported when asked for
RUNTIMES: dict[str, tuple[str, str]] = {
    "onnxruntime": ("edgekd_device.runtime.ort", "OrtRunner"),
    "null": ("edgekd_device.runtime.null", "NullRunner"),
}
PLANNED = ("tensorrt",)


class Runner(Protocol):
    """One model in one runtime. Making it raises EnvironmentFault where the runtime is not installed."""

    name: str
    version: str

    def open(self, model: bytes, threads: int) -> None:
        """Load the bytes of a model file; raises UsageError or UnsafeInput naming what is wrong with it."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Logits float32 [N, K] of images float32 [N, C, H, W] in [0, 1]."""

    def close(self) -> None:
        """Give memory and threads back."""


def make(name: str) -> Runner:
    """A runner of the runtime called ``name``; raises UsageError where it is unknown, EnvironmentFault where absent."""
    if name in PLANNED:
        raise EnvironmentFault(
            f"The {name} runtime is not part of this version yet. Measure ACC and ASR of the same files on this "
            "machine's CPU with --runtime onnxruntime."
        )
    if name not in RUNTIMES:
        hint = did_you_mean(name, RUNTIMES) or " Choose one of: {}.".format(", ".join(RUNTIMES))
        raise UsageError(f"There is no runtime {name!r}.{hint}")
    module, kind = RUNTIMES[name]
    runner: Runner = getattr(importlib.import_module(module), kind)()
    return runner
