"""CUDA through pycuda, in the GPU's primary context: the one that TensorRT works in as well."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
from typing import TYPE_CHECKING, Any, Callable, Iterator

from .cuda import CHOSEN, SCHEDULE_SPIN, SPINS, CudaError, Device, closed, dotted

if TYPE_CHECKING:
    import numpy as np


START = "start"
DRIVER = "libcuda.so.1"  # which pycuda has loaded


def available() -> bool:
    """Whether pycuda can be imported: it is installed, and finds the driver's library."""
    try:
        import pycuda.driver  # noqa: F401
    except ImportError:
        return False
    return True


class PyCuda:
    """`cuda.Cuda` by pycuda, which offers no graphs.

    The context is pushed once and stays until the process ends, as in pycuda.autoprimaryctx: given back earlier, pycuda
    pushes it again to destroy the events that still have a name.
    """

    graphs = False
    waits = CHOSEN
    _context: Any = None

    def __init__(self) -> None:
        import pycuda.driver as driver

        self._driver: Any = driver
        self._kept: list[Any] = []
        with self._explained(START):
            driver.init()
            if driver.Device.count() == 0:
                raise CudaError("This machine has no CUDA GPU. Measure on its processor with --runtime onnxruntime.")
            gpu = driver.Device(0)
            if PyCuda._context is None:
                PyCuda.waits = _set_waiting()
                PyCuda._context = gpu.retain_primary_context()
                PyCuda._context.push()
                atexit.register(PyCuda._context.pop)
            self._stream = driver.Stream()
            self.device = Device(
                gpu.name(),
                "{}.{}".format(*gpu.compute_capability()),
                int(gpu.get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT)),
                int(gpu.total_memory()),
                dotted(driver.get_driver_version()),
                str(gpu.pci_bus_id()),
            )
        self.stream = int(self._stream.handle)
        self.name = "pycuda, CUDA {}.{}".format(*driver.get_version()[:2])

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            hint = (what == START and closed()) or "Close whatever else uses the GPU, and try again."
            raise CudaError(f"CUDA cannot {what}: {error}. {hint}") from error

    def allocate(self, size: int) -> int:
        with self._explained(f"give {size} bytes"):
            memory = self._driver.mem_alloc(size)
        self._kept.append(memory)
        return int(memory)

    def pinned(self, count: int) -> np.ndarray:
        import numpy as np

        with self._explained(f"pin {4 * count} bytes"):
            values: np.ndarray = self._driver.pagelocked_empty(count, np.float32)
        self._kept.append(values.base)
        return values

    def copy_in(self, address: int, values: np.ndarray) -> None:
        with self._explained("copy"):
            self._driver.memcpy_htod_async(address, values, self._stream)

    def copy_out(self, values: np.ndarray, address: int) -> None:
        with self._explained("copy"):
            self._driver.memcpy_dtoh_async(values, address, self._stream)

    def event(self) -> Any:
        with self._explained("make an event"):
            event = self._driver.Event()
        self._kept.append(event)
        return event

    def record(self, event: Any) -> None:
        with self._explained("record an event"):
            event.record(self._stream)

    def reach(self, event: Any) -> None:
        with self._explained("finish"):
            event.synchronize()

    def elapsed_ms(self, start: Any, end: Any) -> float:
        self.reach(end)
        with self._explained("read an event"):
            return float(start.time_till(end))

    def capture(self, work: Callable[[], None]) -> Any:
        raise CudaError("pycuda cannot record CUDA graphs. Install the CUDA runtime library to use --cuda-graph.")

    def launch(self, graph: Any) -> None:
        self.capture(lambda: None)

    def forget(self, graph: Any) -> None:
        """There is none to give back."""

    def wait(self) -> None:
        with self._explained("finish"):
            self._stream.synchronize()

    def close(self) -> None:
        for kept in self._kept:
            # memory; events and the stream go with the last name of them. Errors of earlier work come up again here.
            with contextlib.suppress(self._driver.Error, AttributeError):
                kept.free()
        self._kept.clear()
        self._stream = None


def _set_waiting() -> str:
    """How the processor will wait for the GPU, in the primary context; to be called before it is made.

    By the driver itself: pycuda takes such flags for contexts of its own alone, where TensorRT does not work.
    """
    try:
        driver, gpu = ctypes.CDLL(DRIVER), ctypes.c_int()
        refused = driver.cuDeviceGet(ctypes.byref(gpu), 0) or driver.cuDevicePrimaryCtxSetFlags_v2(gpu, SCHEDULE_SPIN)
    except (OSError, AttributeError):
        return CHOSEN
    return CHOSEN if refused else SPINS
