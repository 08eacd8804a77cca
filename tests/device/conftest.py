"""The tiny bundle of bundles.py as fixtures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import write_bundle
from libraries import HERE, FakeCuda, compiled


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
    from edgekd_device.runtime import cuda_ctypes, cuda_pycuda

    fake = FakeCuda(cuda_library)
    monkeypatch.setattr(cuda_ctypes, "LIBRARIES", (fake.path,))
    monkeypatch.setattr(cuda_ctypes, "WHEELS", ())
    monkeypatch.setattr(cuda_pycuda, "available", lambda: False)
    yield fake
    assert fake.live == 0
