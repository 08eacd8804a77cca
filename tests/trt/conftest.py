"""NVIDIA's libraries for the tests of this folder, whose scripts import one another by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import bindings

LINKS = {
    "libnvinfer.so.11": "libtensorrt_rtx.so.1.7.1",
    "libtensorrt_rtx.so.1": "libtensorrt_rtx.so.1.7.1",
    "libnvonnxparser.so.11": "libtensorrt_onnxparser_rtx.so.1.7.1",
    "libtensorrt_onnxparser_rtx.so.1": "libtensorrt_onnxparser_rtx.so.1.7.1",
}


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for LD_LIBRARY_PATH: TensorRT for RTX under the names that the bindings of TensorRT 11.4 ask for.

    NVIDIA does not support this pair: it works because both have one layout, so what uses it runs in a process of its own.
    """
    home = bindings.wheel("rtx") / "onnxruntime_ep_nv_tensorrt_rtx"
    folder = bindings.stubs(tmp_path_factory.mktemp("rtx"), "11", "nvinfer_plugin")
    for name, target in LINKS.items():
        (folder / name).symlink_to(home / target)
    return folder
