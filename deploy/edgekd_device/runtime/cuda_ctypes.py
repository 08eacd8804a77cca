"""CUDA through libcudart and ctypes: works with the CUDA runtimes 11.4 to 13, needs no package (card device_harness 6.3).

Left out on purpose: what changed its signature between those versions. `cudaGetDeviceProperties` is used for the name
alone, which stands first in every layout of its structure.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, Sequence

from .cuda import CHOSEN, SCHEDULE_SPIN, SPINS, CudaError, Device, closed, dotted

if TYPE_CHECKING:
    import numpy as np

# Newest first; the one whose driver is too old says so, and the next is tried.
LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so", "/usr/local/cuda/lib64/libcudart.so")
WHEELS = ("nvidia/cu13/lib/libcudart.so.13", "nvidia/cuda_runtime/lib/libcudart.so.12")  # below site-packages
TO_DEVICE, TO_HOST = 1, 2
NON_BLOCKING = 1  # the default stream would make every call wait for it
THREAD_LOCAL = 1  # other threads may use CUDA while a graph is recorded
COMPUTE_MAJOR, COMPUTE_MINOR, PROCESSORS = 75, 76, 16  # attributes of a device
PROPERTIES_BYTES = 16384  # of cudaDeviceProp, whose largest layout so far has about 1 kB
NO_DEVICE, OLD_DRIVER, OUT_OF_MEMORY = 100, 35, 2
HINTS = {
    OUT_OF_MEMORY: "Close whatever else uses the GPU's memory, and try again.",
    OLD_DRIVER: "Update NVIDIA's driver, or install the CUDA runtime that fits it.",
    NO_DEVICE: "Measure on the processor with --runtime onnxruntime.",
}

HANDLE = c_void_p
SIGNATURES: dict[str, list[Any]] = {
    "cudaGetDeviceCount": [POINTER(c_int)],
    "cudaGetDeviceProperties": [c_void_p, c_int],
    "cudaDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
    "cudaRuntimeGetVersion": [POINTER(c_int)],
    "cudaDriverGetVersion": [POINTER(c_int)],
    "cudaMemGetInfo": [POINTER(c_size_t), POINTER(c_size_t)],
    "cudaMalloc": [POINTER(HANDLE), c_size_t],
    "cudaFree": [HANDLE],
    "cudaHostAlloc": [POINTER(HANDLE), c_size_t, c_uint],
    "cudaFreeHost": [HANDLE],
    "cudaMemcpyAsync": [HANDLE, HANDLE, c_size_t, c_int, HANDLE],
    "cudaStreamCreateWithFlags": [POINTER(HANDLE), c_uint],
    "cudaStreamSynchronize": [HANDLE],
    "cudaStreamDestroy": [HANDLE],
    "cudaEventCreateWithFlags": [POINTER(HANDLE), c_uint],
    "cudaEventRecord": [HANDLE, HANDLE],
    "cudaEventSynchronize": [HANDLE],
    "cudaEventElapsedTime": [POINTER(c_float), HANDLE, HANDLE],
    "cudaEventDestroy": [HANDLE],
    "cudaStreamBeginCapture": [HANDLE, c_int],
    "cudaStreamEndCapture": [HANDLE, POINTER(HANDLE)],
    "cudaGraphInstantiateWithFlags": [POINTER(HANDLE), HANDLE, c_ulonglong],
    "cudaGraphDestroy": [HANDLE],
    "cudaGraphLaunch": [HANDLE, HANDLE],
    "cudaGraphExecDestroy": [HANDLE],
}


def candidates() -> Iterator[str]:
    """Where libcudart may be: the loader's own places, then Python packages that bring it."""
    yield from LIBRARIES
    for folder in sys.path:
        yield from (str(Path(folder) / name) for name in WHEELS if (Path(folder) / name).is_file())


def available() -> bool:
    """Whether any libcudart can be loaded; it says nothing about a GPU."""
    return next(_loaded(candidates()), None) is not None


def _loaded(names: Iterator[str]) -> Iterator[ctypes.CDLL]:
    for name in names:
        try:
            yield ctypes.CDLL(name)
        except OSError:
            continue


class Cudart:
    """`cuda.Cuda` by ctypes. names: libraries to try; by default ``candidates``."""

    graphs = True

    def __init__(self, names: Sequence[str] | None = None) -> None:
        self._kept: list[tuple[str, Any]] = []  # what gives it back, and its handle, oldest first
        self._library = self._find(candidates() if names is None else iter(names))
        # before anything else: some versions refuse it once the device is in use
        self.waits = CHOSEN if self._library.cudaSetDeviceFlags(SCHEDULE_SPIN) else SPINS
        self.device = self._describe()
        self.name = "ctypes, CUDA " + self._version("cudaRuntimeGetVersion")
        try:
            self.stream = self._made("cudaStreamDestroy", "cudaStreamCreateWithFlags", NON_BLOCKING)
        except BaseException:
            self.close()
            raise

    def _find(self, names: Iterator[str]) -> ctypes.CDLL:
        """The first library that sees a GPU; else what the first one that loads says."""
        first: CudaError | None = None
        for self._library in _loaded(names):
            try:
                _declare(self._library)
                if self._number("cudaGetDeviceCount") == 0:
                    raise _error("cudaGetDeviceCount", NO_DEVICE, "no CUDA-capable device is detected")
                return self._library
            except CudaError as error:
                first = first or error
        if first is not None:
            raise first
        raise CudaError(
            "The CUDA runtime library (libcudart) was not found. On a Jetson, JetPack installs it: sudo apt "
            "install nvidia-jetpack; on a PC: python3 -m pip install nvidia-cuda-runtime."
        )

    def _describe(self) -> Device:
        properties = ctypes.create_string_buffer(PROPERTIES_BYTES)
        self._call("cudaGetDeviceProperties", properties, 0)
        free, total, value = c_size_t(), c_size_t(), c_int()
        self._call("cudaMemGetInfo", byref(free), byref(total))
        said = []
        for attribute in (COMPUTE_MAJOR, COMPUTE_MINOR, PROCESSORS):
            self._call("cudaDeviceGetAttribute", byref(value), attribute, 0)
            said.append(value.value)
        name = properties.raw[:256].split(b"\0")[0].decode("utf-8", "replace")
        driver = self._version("cudaDriverGetVersion")
        return Device(name, f"{said[0]}.{said[1]}", said[2], total.value, driver, self._bus())

    def _bus(self) -> str:
        """Where the GPU is: asked for its energy alone, so nothing fails where it is not said."""
        place = ctypes.create_string_buffer(32)
        refused = self._library.cudaDeviceGetPCIBusId(place, len(place), 0)
        return "" if refused else place.value.decode("ascii", "replace")

    def _version(self, name: str) -> str:
        return dotted(self._number(name))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            said = self._library.cudaGetErrorString(code)
            raise _error(name, code, said.decode("utf-8", "replace") if said else "unknown")

    def _number(self, name: str) -> int:
        value = c_int()
        self._call(name, byref(value))
        return value.value

    def _made(self, undo: str, name: str, *arguments: Any) -> int:
        """The handle that the function ``name`` makes, kept until ``close`` calls ``undo`` on it."""
        handle = HANDLE()
        self._call(name, byref(handle), *arguments)
        self._kept.append((undo, handle.value))
        return handle.value or 0

    def allocate(self, size: int) -> int:
        return self._made("cudaFree", "cudaMalloc", size)

    def pinned(self, count: int) -> np.ndarray:
        import numpy as np

        address = self._made("cudaFreeHost", "cudaHostAlloc", 4 * count, 0)
        return np.ctypeslib.as_array((c_float * count).from_address(address))

    def copy_in(self, address: int, values: np.ndarray) -> None:
        self._call("cudaMemcpyAsync", address, values.ctypes.data, values.nbytes, TO_DEVICE, self.stream)

    def copy_out(self, values: np.ndarray, address: int) -> None:
        self._call("cudaMemcpyAsync", values.ctypes.data, address, values.nbytes, TO_HOST, self.stream)

    def event(self) -> Any:
        return self._made("cudaEventDestroy", "cudaEventCreateWithFlags", 0)

    def record(self, event: Any) -> None:
        self._call("cudaEventRecord", event, self.stream)

    def reach(self, event: Any) -> None:
        self._call("cudaEventSynchronize", event)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        milliseconds = c_float()
        self.reach(end)
        self._call("cudaEventElapsedTime", byref(milliseconds), start, end)
        return milliseconds.value

    def capture(self, work: Callable[[], None]) -> Any:
        self._call("cudaStreamBeginCapture", self.stream, THREAD_LOCAL)
        graph, ended = HANDLE(), 0
        try:
            try:
                work()
            finally:  # also after an error: the stream must not stay in capture
                ended = self._library.cudaStreamEndCapture(self.stream, byref(graph))
            if ended or not graph.value:
                raise _error("cudaStreamEndCapture", ended, "what was given to the stream cannot be recorded")
            return self._made("cudaGraphExecDestroy", "cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            if graph.value:
                self._library.cudaGraphDestroy(graph)

    def launch(self, graph: Any) -> None:
        self._call("cudaGraphLaunch", graph, self.stream)

    def forget(self, graph: Any) -> None:
        self._kept.remove(("cudaGraphExecDestroy", graph))
        self._call("cudaGraphExecDestroy", graph)

    def wait(self) -> None:
        self._call("cudaStreamSynchronize", self.stream)

    def close(self) -> None:
        if self._kept:
            # errors of earlier work come up again here, and nobody can act on them any more
            self._library.cudaStreamSynchronize(self.stream)
        while self._kept:
            undo, handle = self._kept.pop()
            getattr(self._library, undo)(handle)


def _declare(library: ctypes.CDLL) -> None:
    """Types of every function: without them ctypes cuts pointers to 32 bits."""
    try:
        for name, arguments in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, c_int
        library.cudaSetDeviceFlags.argtypes = [c_uint]
        library.cudaDeviceGetPCIBusId.argtypes = [c_char_p, c_int, c_int]
        library.cudaGetErrorString.argtypes, library.cudaGetErrorString.restype = [c_int], c_char_p
    except AttributeError as error:
        raise CudaError(f"This CUDA runtime is older than 11.4, the oldest that is supported: {error}.") from error


def _error(name: str, code: int, said: str) -> CudaError:
    others = HINTS.get(code, "Run it again; if the error remains, restart the machine.")
    hint = others if code in (OUT_OF_MEMORY, OLD_DRIVER) else closed() or others
    return CudaError(f"{name}: CUDA error {code}, {said}. {hint}")
