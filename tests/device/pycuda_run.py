"""Runs the contract of CUDA adapters through real pycuda, on the fake driver named by LD_LIBRARY_PATH."""

from __future__ import annotations

import ctypes
import os
import sys

import cuda_contract
import pytest

from edgekd_device.runtime import cuda, cuda_pycuda

sys.setdlopenflags(os.RTLD_LAZY)  # the fake driver has only the functions that are called
driver = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
for _ in range(2):
    gpu = cuda.start()
    assert isinstance(gpu, cuda_pycuda.PyCuda)
    assert gpu.device == cuda.Device("Fake Orin", "8.7", 8, 8 << 30, "12.6", "0000:01:00.0")
    assert gpu.waits == cuda.SPINS
    second = cuda_pycuda.PyCuda()  # two model files are open at once
    second.allocate(16)
    second.pinned(4)
    cuda_contract.check(gpu)
    second.close()
    del gpu, second
    assert (driver.fake_live(), driver.fake_pushed()) == (0, 1)
driver.fake_fail(b"cudaMalloc", 1, 719)
gpu = cuda.start()
with pytest.raises(cuda.CudaError, match="CUDA cannot give 16 bytes"):
    gpu.allocate(16)
gpu.close()
driver.fake_devices(0)
with pytest.raises(cuda.CudaError, match="no CUDA GPU"):
    cuda.start()
driver.fake_devices(1)
driver.fake_fail(b"cudaStreamCreateWithFlags", 1, 2)
with pytest.raises(cuda.CudaError, match="CUDA cannot start"):
    cuda.start()
assert (driver.fake_live(), driver.fake_pushed()) == (0, 1)
print("all of it")
