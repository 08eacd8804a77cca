"""The tiny bundle of bundles.py as fixtures."""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_tensorrt
import pytest
from bundles import write_bundle
from libraries import HERE, FakeCuda, compiled

from edgekd_device.runtime import builder


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def tiny_bundle(pristine: Path, tmp_path: Path) -> Path:
    """A bundle that a test may spoil."""
    shutil.copytree(pristine, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake CUDA runtime, compiled."""
    return compiled(HERE / "fake_cudart.c", tmp_path_factory.mktemp("cuda") / "libcudart.so.12")


@pytest.fixture
def fake_cuda(cuda_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """The only CUDA runtime to be found; at the end everything must have been given back."""
    from edgekd_device import nvml
    from edgekd_device.runtime import cuda_ctypes, cuda_pycuda

    fake = FakeCuda(cuda_library)
    monkeypatch.setattr(cuda_ctypes, "LIBRARIES", (fake.path,))
    monkeypatch.setattr(cuda_ctypes, "WHEELS", ())
    monkeypatch.setattr(nvml, "LIBRARY", "libnvidia-ml-absent.so")  # what this machine has is of another GPU
    monkeypatch.setattr(cuda_pycuda, "available", lambda: False)
    yield fake
    left = fake.live
    fake.forget()
    assert left == 0


@pytest.fixture
def engines_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where engines are kept in this test."""
    monkeypatch.setenv("EDGEKD_ENGINES", str(tmp_path / "engines"))
    return tmp_path / "engines"


@pytest.fixture
def tensorrt(
    fake_cuda: FakeCuda, engines_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., fake_tensorrt.Script]:
    """Installs the fake TensorRT of a version in this process, where engines are then built too, and gives its script."""

    monkeypatch.setattr(builder, "_run", fake_tensorrt.builds_here)  # test_engine_builder.py has the real one

    def install(version: str = "10.3.0") -> fake_tensorrt.Script:
        module, script = fake_tensorrt.make(version, ctypes.CDLL(fake_cuda.path))
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        return script

    return install
