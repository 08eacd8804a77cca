"""Put NVIDIA's ONNX parser and builder where the tests find them, for machines without a GPU or TensorRT.

    python tests/trt/fetch_parser.py            once; then `make trt` or `pytest -m trt`

TensorRT for RTX 1.7.1 comes with a plug-in of onnxruntime, the Python bindings of TensorRT 11.4 are a wheel of their own:
both from PyPI, held against their SHA-256, under NVIDIA's licence; nothing of them is kept in the repository. NVIDIA does
not support this pair: it works because both have one layout, so what uses it runs in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(os.environ.get("EDGEKD_TRT_PARSER") or Path(__file__).resolve().parents[2] / ".cache" / "trt-parser")
READY = "ready"
RTX = "1.7.1"
REQUIREMENTS = """\
onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0 \
    --hash=sha256:32f575c633d171b4edf4b53d3bb22b72a6c9c0a850d2982ce9a788a5d40d3298
tensorrt-cu13-bindings==11.4.0.106 \
    --hash=sha256:1d17853da33a186c4d4d39995c1186bb59f643689aabac9c3e33ae5f0ba402f5 \
    --hash=sha256:d072ac2a095e2be749fefc847adfb25d5ebe70303401df62ede8fe67a59f27fc \
    --hash=sha256:5fc7a6c412881f7212030893bd5531b1a0ff415c72c7678dfe4ead7a7765b38d \
    --hash=sha256:bac9a362c9189b5f5dd0444213913846e4b46003237834958e890eff57d86ed5
"""
# the names that the bindings ask for -> the libraries that TensorRT for RTX brings
LINKS = {
    "libnvinfer.so.11": f"libtensorrt_rtx.so.{RTX}",
    "libnvonnxparser.so.11": f"libtensorrt_onnxparser_rtx.so.{RTX}",
    "libtensorrt_rtx.so.1": f"libtensorrt_rtx.so.{RTX}",
    "libtensorrt_onnxparser_rtx.so.1": f"libtensorrt_onnxparser_rtx.so.{RTX}",
}
# the bindings ask for a library of plug-ins too, of which they call one function
PLUGINS = "int initLibNvInferPlugins(void *logger, const char *space) { return 1; }\n"


def fetch(folder: Path = FOLDER) -> Path:
    """The folder for LD_LIBRARY_PATH and PYTHONPATH, filled where it is not; raises CalledProcessError, OSError."""
    if (folder / READY).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        wanted = Path(place, "requirements.txt")
        wanted.write_text(REQUIREMENTS)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "--only-binary=:all:"]
        subprocess.run([*pip, "-d", place, "-r", str(wanted)], check=True)
        for wheel in Path(place).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.infolist():
                    name = Path(member.filename)
                    if name.name in LINKS.values():
                        (folder / name.name).write_bytes(archive.read(member))
                    elif name.parts[0] == "tensorrt_bindings":
                        archive.extract(member, folder)
        source = Path(place, "plugins.c")
        source.write_text(PLUGINS)
        library = "libnvinfer_plugin.so.11"
        compiler = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(folder / library), str(source)]
        subprocess.run(compiler, check=True)
    for link, library in LINKS.items():
        (folder / link).unlink(missing_ok=True)
        (folder / link).symlink_to(library)
    (folder / READY).touch()
    return folder


if __name__ == "__main__":
    print(fetch())
