"""A GPU and one stream on it, as far as a Runner needs them: memory, copies, events, graphs.

Two adapters: pycuda, and libcudart through ctypes where pycuda is absent. Work given to the stream runs in its order,
later than the call that gives it; ``wait`` is where the processor meets it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Protocol

from ..errors import EnvironmentFault

if TYPE_CHECKING:
    import numpy as np


SPINS, CHOSEN = "spins", "as CUDA chooses"
# CUDA's flag for it. Left alone, CUDA on a board chooses by its power mode, and latency would change with more than clocks.
SCHEDULE_SPIN = 1


DEVICES = ("nvmap", "nvgpu*", "nvgpu/*/*", "nvhost*", "nvidia*")


class CudaError(EnvironmentFault):
    """CUDA did not do what it was asked; after some errors the process must end, so no caller goes on."""


@dataclass(frozen=True)
class Device:
    """The GPU; what an engine is tied to."""

    name: str
    compute_capability: str  # e.g. "8.7"
    processors: int  # that are switched on: boards of one name, and power modes of one board, differ in it
    memory_bytes: int
    cuda: str  # the version that the driver offers, the same through every adapter
    bus: str = ""  # where it is on the PCI bus, as NVML names it; empty where CUDA does not say


def closed(root: str = "/") -> str:
    """What to do where this user may not open the GPU's device files, as outside a Jetson's groups; empty where all are open."""
    for pattern in DEVICES:
        for path in sorted((Path(root) / "dev").glob(pattern)):
            if path.is_char_device() and not os.access(str(path), os.R_OK | os.W_OK):
                return (
                    f"This user may not open /dev/{path.name}: sudo usermod -aG video,render $USER, then log in again."
                )
    return ""


def dotted(version: int) -> str:
    """CUDA's number of a version, 12060, as it is written, 12.6."""
    return "{}.{}".format(*divmod(version // 10, 100))


class Cuda(Protocol):
    """The first GPU, with a stream of its own. What it hands out lives until ``close``.

    Every method raises CudaError where CUDA refuses.
    """

    name: str  # of the adapter, with the version of CUDA
    graphs: bool  # whether `capture` is offered
    device: Device
    stream: int  # the handle, for TensorRT
    waits: str  # how the processor waits for the GPU: SPINS, or CHOSEN where CUDA would not be told

    def allocate(self, size: int) -> int:
        """The address of ``size`` bytes on the GPU."""

    def pinned(self, count: int) -> np.ndarray:
        """float32 [count] in host memory that the GPU can copy from and to while the processor goes on."""

    def copy_in(self, address: int, values: np.ndarray) -> None:
        """Copy pinned ``values`` to the GPU, in the stream."""

    def copy_out(self, values: np.ndarray, address: int) -> None:
        """Copy from the GPU into pinned ``values``, in the stream."""

    def event(self) -> Any:
        """A mark that can be set in the stream."""

    def record(self, event: Any) -> None:
        """Set the mark after what the stream was given so far."""

    def reach(self, event: Any) -> None:
        """Return when the stream has come to the mark; what was given to it afterwards may still run."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds of the GPU's clock between two marks; waits for the second."""

    def capture(self, work: Callable[[], None]) -> Any:
        """What ``work`` gives to the stream, as a graph; nothing of it runs. Call only where ``graphs`` holds."""

    def launch(self, graph: Any) -> None:
        """Run a graph, in the stream."""

    def forget(self, graph: Any) -> None:
        """Give a graph back before ``close``."""

    def wait(self) -> None:
        """Return when the stream has done everything."""

    def close(self) -> None:
        """Give everything back; harmless when called again."""


def start(graphs: bool = False) -> Cuda:
    """The GPU through pycuda, or through libcudart where pycuda is absent or, as it has none, graphs are asked for.

    Raises EnvironmentFault where there is no GPU, or no way to it.
    """
    from . import cuda_ctypes, cuda_pycuda

    if graphs and cuda_ctypes.available():
        return cuda_ctypes.Cudart()
    if cuda_pycuda.available():
        return cuda_pycuda.PyCuda()
    return cuda_ctypes.Cudart()
