"""The adapters to CUDA: ctypes against a shared library compiled here, both against a GPU where there is one."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cuda_contract
import fake_pycuda
import numpy as np
import pytest
from libraries import HERE, FakeCuda, compiled

from edgekd_device.runtime import cuda, cuda_ctypes, cuda_pycuda
from edgekd_device.runtime.cuda import CudaError

AVAILABLE = cuda_pycuda.available  # before a fixture replaces it
TOOLKIT = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))


def test_ctypes_does_what_the_seam_promises(fake_cuda):
    gpu = cuda_ctypes.Cudart()
    assert (gpu.device.name, gpu.device.compute_capability) == ("Fake Orin", "8.7")
    assert gpu.name == "ctypes, CUDA 12.6"
    cuda_contract.check(gpu)


def test_a_gpu_that_does_not_say_where_it_is_still_computes(fake_cuda):
    gpu = cuda_ctypes.Cudart()
    assert gpu.device.bus == "0000:01:00.0"
    gpu.close()
    fake_cuda.fail("cudaDeviceGetPCIBusId")
    gpu = cuda_ctypes.Cudart()
    assert gpu.device.bus == ""
    gpu.close()


def test_the_processor_spins_while_it_waits_where_cuda_lets_it(fake_cuda):
    gpu = cuda_ctypes.Cudart()
    assert (gpu.waits, fake_cuda.calls("cudaSetDeviceFlags")) == (cuda.SPINS, 1)
    gpu.close()
    fake_cuda.fail("cudaSetDeviceFlags", code=708)  # in use already, and too old to take it then
    gpu = cuda_ctypes.Cudart()
    assert gpu.waits == cuda.CHOSEN
    gpu.close()


def test_pycuda_asks_the_driver_itself_to_spin(tmp_path, monkeypatch):
    """pycuda has no name for it; what it loads is a driver compiled here."""
    driver = compiled(HERE / "fake_libcuda.c", tmp_path / "libcuda.so.1")
    monkeypatch.setattr(cuda_pycuda, "DRIVER", str(driver))
    assert cuda_pycuda._set_waiting() == cuda.SPINS
    fake = ctypes.CDLL(str(driver))
    assert fake.fake_calls(b"cudaSetDeviceFlags") == 1
    fake.fake_fail(b"cudaSetDeviceFlags", 1, 708)
    assert cuda_pycuda._set_waiting() == cuda.CHOSEN
    monkeypatch.setattr(cuda_pycuda, "DRIVER", "libnothing.so")
    assert cuda_pycuda._set_waiting() == cuda.CHOSEN
    monkeypatch.setattr(cuda_pycuda, "DRIVER", ctypes.util.find_library("c") or "libc.so.6")
    assert cuda_pycuda._set_waiting() == cuda.CHOSEN  # a driver that is too old


def test_work_runs_when_somebody_waits_for_it(fake_cuda):
    """What the fake is for: an adapter that forgets to wait would be found out."""
    gpu = cuda_ctypes.Cudart()
    sent, received, there = gpu.pinned(4), gpu.pinned(4), gpu.allocate(16)
    sent[:], received[:] = 1, 0
    gpu.copy_in(there, sent)
    gpu.copy_out(received, there)
    assert received.tolist() == [0] * 4
    gpu.wait()
    assert received.tolist() == [1] * 4
    with pytest.raises(CudaError, match=r"cudaMemcpyAsync: CUDA error 1, .* Run it again"):
        gpu.copy_in(there, np.zeros(4, np.float32))  # not pinned
    with pytest.raises(CudaError, match="cudaMemcpyAsync"):
        gpu.copy_in(there, gpu.pinned(5))  # more than there is room for
    with pytest.raises(CudaError, match="CUDA error 400, invalid resource handle"):
        gpu.record(1)
    gpu.close()


@pytest.mark.parametrize("name", [n for n in cuda_ctypes.SIGNATURES if "Destroy" not in n and "Free" not in n])
def test_every_function_may_fail_at_every_call_and_nothing_is_lost(name, fake_cuda):
    """The n-th call of each function fails, n = 1, 2, … until a round needs no more of them."""
    for nth in range(1, 40):
        fake_cuda.reset()
        fake_cuda.fail(name, nth)
        said = _said_by_a_round()
        assert fake_cuda.live == 0
        if said is None:
            assert nth > 1  # at least one of them did fail
            return
        assert name in said
    raise AssertionError(f"{name} is called without end")


def _said_by_a_round() -> str | None:
    """What an adapter that is opened, used and closed says where it fails."""
    try:
        gpu = cuda_ctypes.Cudart()
    except CudaError as error:
        return str(error)
    try:
        _round(gpu)
    except CudaError as error:
        return str(error)
    finally:
        gpu.close()
    return None


def _round(gpu: cuda.Cuda) -> None:
    values, there, marks = gpu.pinned(4), gpu.allocate(16), (gpu.event(), gpu.event())

    def work() -> None:
        gpu.copy_in(there, values)
        gpu.copy_out(values, there)

    graph = gpu.capture(work)
    gpu.record(marks[0])
    gpu.launch(graph)
    gpu.record(marks[1])
    gpu.elapsed_ms(*marks)
    gpu.wait()
    gpu.forget(graph)


def test_device_files_that_this_user_may_not_open(tmp_path, monkeypatch):
    assert cuda.closed(str(tmp_path)) == ""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia-caps").mkdir()  # of root alone everywhere, and no device
    for name in ("nvme0n1", "nvhost-gpu", "nvmap"):
        (tmp_path / "dev" / name).touch()
    assert cuda.closed(str(tmp_path)) == ""
    monkeypatch.setattr(Path, "is_char_device", lambda path: path.is_file())
    monkeypatch.setattr(os, "access", lambda path, mode: not path.endswith(("nvme0n1", "nvhost-gpu", "nvidia-caps")))
    assert cuda.closed(str(tmp_path)).startswith(
        "This user may not open /dev/nvhost-gpu: sudo usermod -aG video,render"
    )


def test_no_library_no_gpu_an_old_one(fake_cuda, tmp_path, monkeypatch):
    with pytest.raises(CudaError, match="nvidia-jetpack"):
        cuda_ctypes.Cudart(["libnothing.so"])
    with pytest.raises(CudaError, match=r"older than 11\.4"):
        cuda_ctypes.Cudart([ctypes.util.find_library("c") or "libc.so.6"])
    fake_cuda.devices(0)
    with pytest.raises(CudaError, match=r"CUDA error 100.*--runtime onnxruntime"):
        cuda_ctypes.Cudart()
    monkeypatch.setattr(cuda_ctypes, "closed", lambda: "groups")
    with pytest.raises(CudaError, match=r"CUDA error 100.*groups"):
        cuda_ctypes.Cudart()
    for code, hint in ((2, "Close whatever else uses the GPU's memory"), (35, "Update NVIDIA's driver")):
        assert hint in str(cuda_ctypes._error("cudaMalloc", code, "said")), "no group cures that"
    monkeypatch.setattr(cuda_ctypes, "closed", lambda: "")
    fake_cuda.devices(1)
    fake_cuda.fail("cudaGetDeviceCount", code=35)
    with pytest.raises(CudaError, match="Update NVIDIA's driver"):
        cuda_ctypes.Cudart()
    fake_cuda.fail("cudaGetDeviceCount", code=35)  # the first does not fit its driver, the second does
    gpu = cuda_ctypes.Cudart([fake_cuda.path, "libnothing.so", fake_cuda.path])
    gpu.close()


def test_python_packages_that_bring_the_library(fake_cuda, tmp_path, monkeypatch):
    place = tmp_path / "nvidia" / "cu13" / "lib"
    place.mkdir(parents=True)
    (place / "libcudart.so.13").symlink_to(fake_cuda.path)
    monkeypatch.setattr(cuda_ctypes, "LIBRARIES", ("libnothing.so",))
    assert not cuda_ctypes.available()
    monkeypatch.setattr(cuda_ctypes, "WHEELS", ("nvidia/cu13/lib/libcudart.so.13",))
    monkeypatch.syspath_prepend(tmp_path)
    assert cuda_ctypes.available()
    cuda_ctypes.Cudart().close()


def test_pycuda_comes_first_but_not_where_graphs_are_asked_for(fake_cuda, monkeypatch):
    """Which adapter, by what is there; pycuda itself needs a driver (the gpu tests)."""
    made = []
    monkeypatch.setattr(cuda_pycuda, "PyCuda", lambda: made.append("pycuda"))
    cuda.start().close()
    assert made == []
    monkeypatch.setattr(cuda_pycuda, "available", lambda: True)
    assert cuda.start() is None
    assert made == ["pycuda"]
    cuda.start(graphs=True).close()
    assert made == ["pycuda"]
    monkeypatch.setattr(cuda_ctypes, "LIBRARIES", ())
    cuda.start(graphs=True)
    assert made == ["pycuda"] * 2


def test_pycuda_does_what_the_seam_promises(fake_cuda, monkeypatch):
    """On a fake of pycuda; its own code runs in the test after next, where it is installed."""
    driver = fake_pycuda.install(fake_cuda, monkeypatch)
    monkeypatch.setattr(cuda_pycuda, "available", AVAILABLE)
    monkeypatch.setattr(cuda_pycuda.PyCuda, "_context", None)
    pops: list[Any] = []
    monkeypatch.setattr(cuda_pycuda.atexit, "register", pops.append)
    assert cuda_pycuda.available()
    gpu, second = cuda.start(), cuda.start()
    assert isinstance(gpu, cuda_pycuda.PyCuda)
    assert (gpu.device, gpu.name) == (
        cuda.Device("Fake Orin", "8.7", 8, 8 << 30, "12.6", "0000:01:00.0"),
        "pycuda, CUDA 12.6",
    )
    second.allocate(16)
    cuda_contract.check(gpu)
    second.close()
    assert (driver.Context.pushed, len(pops)) == (1, 1)
    fake_cuda.fail("cudaStreamSynchronize")
    third = cuda.start()
    with pytest.raises(CudaError, match=r"CUDA cannot finish: cudaStreamSynchronize failed: 2\. Close whatever else"):
        third.wait()
    third.close()
    fake_cuda.devices(0)
    with pytest.raises(CudaError, match="has no CUDA GPU"):
        cuda.start()
    fake_cuda.devices(1)
    del gpu, second, third


def test_pycuda_is_not_there_where_it_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert not cuda_pycuda.available()


def test_signatures_are_those_of_nvidias_header(tmp_path):
    """The fake's functions are compiled under NVIDIA's declarations; ours are held against the fake by calling it."""
    header = next(
        (f for f in (TOOLKIT / "include", Path("/usr/include")) if (f / "cuda_runtime_api.h").is_file()), None
    )
    if header is None:
        pytest.skip("no CUDA header here")
    compiled(HERE / "fake_cudart.c", tmp_path / "checked.so", "-DWITH_HEADER", f"-I{header}")


def test_a_real_runtime_without_a_driver_is_one_message():
    """NVIDIA's own library, where it is installed: every function is there, and its error comes through."""
    code = (
        "from edgekd_device.runtime import cuda_ctypes\n"
        "try: cuda_ctypes.Cudart().close(); print('a GPU')\n"
        "except cuda_ctypes.CudaError as error: print(error)"
    )
    if not cuda_ctypes.available():
        pytest.skip("no CUDA runtime here")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "a GPU\n" or "cudaGetDeviceCount: CUDA error" in ended.stdout


@pytest.mark.gpu
def test_ctypes_on_a_gpu():
    if not cuda_ctypes.available():
        pytest.skip("no CUDA runtime here")
    cuda_contract.check(cuda_ctypes.Cudart())


@pytest.mark.gpu
def test_pycuda_on_a_gpu():
    if not cuda_pycuda.available():
        pytest.skip("pycuda is not installed here")
    cuda_contract.check(cuda_pycuda.PyCuda())


def test_fakes_count(fake_cuda: FakeCuda):
    """The fake itself: what is not given back is seen."""
    gpu = cuda_ctypes.Cudart()
    gpu.allocate(8)
    assert fake_cuda.live == 2
    assert fake_cuda.calls("cudaMalloc") == 1
    gpu.close()


def test_real_pycuda_on_a_driver_compiled_here(tmp_path):
    """pycuda's own code, where it is installed, calls the fake through the driver's interface.

    EDGEKD_PYCUDA_PYTHON may name an interpreter that has it: it is built from source, and not part of `[dev]`.
    """
    python = os.environ.get("EDGEKD_PYCUDA_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import pycuda"], capture_output=True, check=False).returncode:
        pytest.skip("pycuda is not installed here")
    compiled(HERE / "fake_libcuda.c", tmp_path / "libcuda.so.1", "-Wl,-soname,libcuda.so.1")
    libraries = f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    paths = f"{Path(cuda.__file__).parents[2]}:{HERE}"
    ended = subprocess.run(
        [python, str(HERE / "pycuda_run.py")],
        env={**os.environ, "LD_LIBRARY_PATH": libraries, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "all of it\n"), ended.stderr
