"""NVIDIA's parser and builder in a process of their own, and the exported files of any student of the zoo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fetch_parser import FOLDER, READY

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def build() -> Callable[..., dict[str, dict[str, Any]]]:
    """A function from ONNX files to what NVIDIA's libraries made of each, by file name."""
    if not (FOLDER / READY).exists():
        pytest.skip("needs NVIDIA's parser: python tests/trt/fetch_parser.py")

    def run(*files: Path) -> dict[str, dict[str, Any]]:
        around = {**os.environ, "LD_LIBRARY_PATH": str(FOLDER), "PYTHONPATH": str(FOLDER)}
        done = subprocess.run(
            [sys.executable, str(HERE / "build_plans.py"), *map(str, files)],
            env=around, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        if done.returncode < 0 and not done.stdout:  # the pair of libraries is not one that NVIDIA supports
            pytest.skip(f"NVIDIA's libraries do not load here: signal {-done.returncode}")
        assert done.returncode == 0, done.stderr
        found = {value["file"]: value for value in map(json.loads, done.stdout.splitlines())}
        assert set(found) == {file.name for file in files}
        return found

    return run


@pytest.fixture
def export_all(tmp_path: Path) -> Callable[..., Iterator[dict[str, Path]]]:
    """A context with the files of an untrained network, quantised on made-up pictures: flavour -> file."""
    import torch

    from edgekd import models
    from edgekd.data import ImageSet
    from edgekd.export.onnx import FLAVOURS, export
    from edgekd.models.registry import resolve, usual_input
    from edgekd.quantize import PtqConfig, ptq
    from edgekd.types import ModelSpec

    @contextmanager
    def made(arch: str, flavours: tuple[str, ...]) -> Iterator[dict[str, Path]]:
        inputs = usual_input(resolve(arch))
        noise = torch.rand(32, inputs.channels, 4, 4, generator=torch.Generator().manual_seed(1))
        smooth = torch.nn.functional.interpolate(noise, size=(inputs.height, inputs.width), mode="bicubic").clamp(0, 1)
        pixels = (smooth * 255).round().to(torch.uint8).numpy()
        pictures = ImageSet(pixels, np.arange(32, dtype=np.int64) % 10, tuple("0123456789"), "made up")
        twins = {"": models.build(ModelSpec(arch, 10, inputs))}
        files = {}
        for flavour in flavours:
            row = FLAVOURS[flavour]
            if row.quantizer not in twins:
                twins[row.quantizer] = ptq(twins[""], pictures, PtqConfig(flavour=row.quantizer, calibrator="max"))
            files[flavour] = tmp_path / row.file
            export(twins[row.quantizer], files[flavour], flavour, pixels[:8])
        yield files
        for file in files.values():
            file.unlink()  # a ResNet-50 in five flavours is 300 MB

    return made
