"""Fetch NVIDIA's own TensorRT bindings, and a builder that works without a GPU, for the tests of this folder.

    python tests/trt/fetch.py            # four bindings, 5 MB; and 8.6's, which must be refused
    python tests/trt/fetch.py builder    # TensorRT for RTX as well, 150 MB: NVIDIA's parser and builder on the processor

They go from the package index into ``tests/trt/wheels`` (or EDGEKD_TRT_WHEELS), one folder per version, and nowhere else:
they are NVIDIA's, under NVIDIA's licences, and are never committed. Without them the tests skip.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ.get("EDGEKD_TRT_WHEELS") or Path(__file__).parent / "wheels")
# JetPack 6, JetPack 7.0 and 7.1 (Thor), JetPack 7.2 and the strongly typed family
BINDINGS = {
    "10.3.0": "tensorrt_cu12_bindings==10.3.0",
    "10.13.3.9": "tensorrt_cu13_bindings==10.13.3.9",
    "10.16.1.11": "tensorrt_cu12_bindings==10.16.1.11",
    "11.4.0.106": "tensorrt_cu13_bindings==11.4.0.106",
}
OLD = {"8.6.1": "tensorrt_bindings==8.6.1"}
BUILDER = {"rtx": "onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0"}


def main(words: list[str]) -> int:
    wanted = {**BINDINGS, **OLD, **(BUILDER if "builder" in words else {})}
    failed = []
    for name, package in wanted.items():
        place = FOLDER / name
        if place.is_dir():
            continue
        options = ("--no-deps", "--no-compile", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check")
        partial = FOLDER / (name + ".part")
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(partial), package]
        if subprocess.run(command, check=False).returncode:
            failed.append(package)
        else:
            partial.rename(place)
    if failed:
        print("not to be had here: " + ", ".join(failed), file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
