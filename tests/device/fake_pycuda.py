"""pycuda.driver as far as edgekd's adapter calls it, over the fake CUDA runtime.

The same contract runs through real pycuda in test_cuda.py, where it is installed: that is what holds this one to it.
"""

from __future__ import annotations

import ctypes
import sys
import types
from typing import Any

import numpy as np
import pytest
from libraries import FakeCuda

from edgekd_device.runtime.cuda_ctypes import SIGNATURES


class Error(Exception):
    """As pycuda.driver.Error, the base of all of its own."""


def install(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Let `import pycuda.driver` give the fake."""
    library = ctypes.CDLL(fake.path)
    for name, arguments in SIGNATURES.items():
        getattr(library, name).argtypes = arguments

    def call(name: str, *arguments: Any) -> None:
        code = getattr(library, name)(*arguments)
        if code:
            raise Error(f"{name} failed: {code}")

    def made(name: str, *arguments: Any) -> int:
        handle = ctypes.c_void_p()
        call(name, ctypes.byref(handle), *arguments)
        return handle.value or 0

    class Context:
        pushed = 0

        def push(self) -> None:
            Context.pushed += 1

        @staticmethod
        def pop() -> None:
            Context.pushed -= 1

    class Device:
        def __init__(self, ordinal: int) -> None:
            assert ordinal == 0

        @staticmethod
        def count() -> int:
            found = ctypes.c_int()
            call("cudaGetDeviceCount", ctypes.byref(found))
            return found.value

        def name(self) -> str:
            return "Fake Orin"

        def pci_bus_id(self) -> str:
            return "0000:01:00.0"

        def compute_capability(self) -> tuple[int, int]:
            return 8, 7

        def get_attribute(self, attribute: int) -> int:
            found = ctypes.c_int()
            call("cudaDeviceGetAttribute", ctypes.byref(found), attribute, 0)
            return found.value

        def total_memory(self) -> int:
            return 8 << 30

        def retain_primary_context(self) -> Context:
            return Context()

    class Handle:
        undo = ""

        def __init__(self, handle: int) -> None:
            self.handle = handle

        def __int__(self) -> int:
            return self.handle

        def free(self) -> None:
            handle, self.handle = self.handle, 0
            if handle:
                call(self.undo, handle)

        __del__ = free

    class DeviceAllocation(Handle):
        undo = "cudaFree"

    class PagelockedHostAllocation(Handle):
        undo = "cudaFreeHost"

        def __init__(self, handle: int, count: int) -> None:
            super().__init__(handle)
            self.__array_interface__ = {"data": (handle, False), "shape": (count,), "typestr": "<f4", "version": 3}

    class Stream:
        def __init__(self) -> None:
            self.handle = made("cudaStreamCreateWithFlags", 1)

        def synchronize(self) -> None:
            call("cudaStreamSynchronize", self.handle)

        def __del__(self) -> None:
            if hasattr(self, "handle"):
                call("cudaStreamDestroy", self.handle)

    class Event:
        def __init__(self) -> None:
            self._handle = made("cudaEventCreateWithFlags", 0)

        def record(self, stream: Stream) -> None:
            call("cudaEventRecord", self._handle, stream.handle)

        def synchronize(self) -> None:
            call("cudaEventSynchronize", self._handle)

        def time_till(self, end: Event) -> float:
            found = ctypes.c_float()
            call("cudaEventElapsedTime", ctypes.byref(found), self._handle, end._handle)
            return found.value

        def __del__(self) -> None:
            call("cudaEventDestroy", self._handle)

    def copy(kind: int, to: int, source: int, size: int, stream: Stream) -> None:
        call("cudaMemcpyAsync", to, source, size, kind, stream.handle)

    driver = types.ModuleType("pycuda.driver")
    for name, value in {
        "Error": Error,
        "Device": Device,
        "Stream": Stream,
        "Event": Event,
        "Context": Context,
        "device_attribute": types.SimpleNamespace(MULTIPROCESSOR_COUNT=16),
        "init": lambda: None,
        "get_version": lambda: (12, 6, 0),
        "get_driver_version": lambda: 12060,
        "mem_alloc": lambda size: DeviceAllocation(made("cudaMalloc", size)),
        "pagelocked_empty": lambda n, kind: np.asarray(PagelockedHostAllocation(made("cudaHostAlloc", 4 * n, 0), n)),
        "memcpy_htod_async": lambda to, a, stream: copy(1, to, a.ctypes.data, a.nbytes, stream),
        "memcpy_dtoh_async": lambda a, source, stream: copy(2, a.ctypes.data, source, a.nbytes, stream),
    }.items():
        setattr(driver, name, value)
    package = types.ModuleType("pycuda")
    package.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    return driver
