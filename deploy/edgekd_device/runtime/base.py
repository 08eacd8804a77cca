"""What an inference runtime must offer, and the table of those that exist."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Protocol, Sequence

from ..errors import EnvironmentFault, UnsafeInput, UsageError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

BUILDING = "building the engine of "  # what a runner reports while it builds, before the file's name
Progress = Callable[[str, int, int, Mapping[str, float]], None]

# name -> module, class; imported when asked for
RUNTIMES: dict[str, tuple[str, str]] = {
    "onnxruntime": ("edgekd_device.runtime.ort", "OrtRunner"),
    "tensorrt": ("edgekd_device.runtime.trt", "TrtRunner"),
    "null": ("edgekd_device.runtime.null", "NullRunner"),
}


def silent(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
    """Where nobody watches."""


@dataclass(frozen=True)
class Settings:
    """What a runner may be told besides the model; a runner that has no use for one leaves it alone."""

    label: str = "the model"  # in messages: the file's name
    cuda_graph: bool = False
    progress: Progress = silent
    root: str = "/"  # of the file system, for what is read of the machine


class Runner(Protocol):
    """One model in one runtime. Making it raises EnvironmentFault where the runtime is not installed."""

    name: str
    version: str
    foreign: Sequence[str]  # files that this version reads, and that another file of the bundle is made for
    engine: Mapping[str, Any] | None  # what was built of the model, as plain JSON; None where nothing is built
    notes: Sequence[str]  # what a report should say of it

    def prepare(self, model: bytes) -> None:
        """Build and keep what `open` needs of a model, where it is not there yet; nothing is open afterwards."""

    def open(self, model: bytes, threads: int) -> None:
        """Load the bytes of a model file; raises UsageError or UnsafeInput naming what is wrong with it."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Logits float32 [N, K] of images float32 [N, C, H, W] in [0, 1]."""

    def gpu_block(
        self, inputs: Sequence[np.ndarray], seconds: float, samples: int, clock: Callable[[], int]
    ) -> np.ndarray | None:
        """Nanoseconds of the GPU alone per inference [n], as `latency.timed_block`; None where there is no GPU."""

    def throughput(self, images: np.ndarray, seconds: float, clock: Callable[[], int]) -> float | None:
        """Samples per second with two batches in flight, as `latency.throughput`; None where one at a time is all there is."""

    def close(self) -> None:
        """Give memory and threads back."""


class OnProcessor:
    """What a Runner has where nothing is built and no GPU computes."""

    foreign: Sequence[str] = ()
    engine: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()

    def prepare(self, model: bytes) -> None:
        return None

    def gpu_block(
        self, inputs: Sequence[np.ndarray], seconds: float, samples: int, clock: Callable[[], int]
    ) -> np.ndarray | None:
        return None

    def throughput(self, images: np.ndarray, seconds: float, clock: Callable[[], int]) -> float | None:
        return None


def make(name: str, settings: Settings | None = None) -> Runner:
    """A runner of the runtime called ``name``; raises UsageError where it is unknown, EnvironmentFault where absent."""
    if name not in RUNTIMES:
        hint = did_you_mean(name, RUNTIMES) or " Choose one of: {}.".format(", ".join(RUNTIMES))
        raise UsageError(f"There is no runtime {name!r}.{hint}")
    module, kind = RUNTIMES[name]
    runner: Runner = getattr(importlib.import_module(module), kind)(settings or Settings())
    return runner


@contextlib.contextmanager
def about(label: str) -> Iterator[None]:
    """Put the name of a file in front of what is wrong with it."""
    try:
        yield
    except (UsageError, UnsafeInput, EnvironmentFault) as error:
        raise type(error)(f"{label}: {error}") from error
