"""Other people's post-training quantisers on the same file and images: onnxruntime's static one, NVIDIA's ModelOpt."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.packages import aside
from edgekd.errors import EnvironmentFault

# onnxruntime's names for calibrators; all but MinMax keep every activation of every image in memory
METHODS = {"max": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
# ModelOpt's own list would replace onnxruntime by the GPU's; these it needs, and takes what is installed for the rest
MODELOPT = (
    *("nvidia-modelopt==0.47.0", "onnx-graphsurgeon==0.6.1", "onnxconverter-common==1.16.0", "polygraphy==0.53.6"),
    *("lief==1.0.0", "cppimport==26.4.17", "pybind11==3.1.0", "mako==1.4.3", "ml_dtypes==0.6.0", "tqdm==4.70.1"),
    *("nvidia-ml-py", "requests", "huggingface_hub", "scipy", "pulp", "regex"),
)
MODELOPT_METHODS = ("max", "entropy")
CHILD = """
import sys
import numpy as np
from modelopt.onnx.quantization import quantize

source, destination, images, method = sys.argv[1:]
pixels = np.load(images).astype(np.float32) / 255
quantize(source, quantize_mode="int8", calibration_data=pixels, calibration_method=method, calibration_eps=["cpu"],
         high_precision_dtype="fp32", output_path=destination)
"""


class NotQuantised(Exception):
    """A quantiser that is there, and failed on this file; says how."""


class Reader:
    """Images for onnxruntime's calibration, one at a time."""

    def __init__(self, images: np.ndarray) -> None:
        self.batches = iter([{"input": image[None].astype(np.float32) / 255} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def onnxruntime(
    source: Path, destination: Path, images: np.ndarray, flavour: str, calibrator: str, per_channel: bool = True
) -> None:
    """onnxruntime's static quantiser in QDQ form; flavour: u8s8, or s8 as TensorRT takes it; per_channel: weights, as ours."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = destination.with_suffix(".prepared.onnx")
    symmetric: dict[str, Any] = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    logging.disable(logging.WARNING)
    try:
        quant_pre_process(str(source), str(prepared))
        quantize_static(
            str(prepared),
            str(destination),
            Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=QuantType.QInt8 if flavour == "s8" else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, METHODS[calibrator]),
            extra_options=symmetric if flavour == "s8" else {},
        )
    finally:
        logging.disable(logging.NOTSET)
        prepared.unlink(missing_ok=True)


def fetch() -> Path:
    """The folder with ModelOpt; raises EnvironmentFault where it cannot be had."""
    return aside("modelopt", *MODELOPT)


def modelopt(source: Path, destination: Path, images: np.ndarray, calibrator: str) -> None:
    """NVIDIA's ModelOpt on the ONNX file, symmetric INT8 with the rest in FP32.

    Raises NotQuantised where it fails, EnvironmentFault where it is not to be had or was killed.
    """
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(fetch())]
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory(dir=destination.parent) as name:  # it writes over its source, and beside it
        folder = Path(name)
        given, pixels, made = folder / "given.onnx", folder / "images.npy", folder / "made.onnx"
        shutil.copyfile(source, given)
        np.save(pixels, images)
        words = [sys.executable, "-c", CHILD, str(given), str(made), str(pixels), calibrator]
        done = subprocess.run(words, env=around, capture_output=True, text=True, check=False)
        if done.returncode < 0:
            raise EnvironmentFault(f"ModelOpt was ended by signal {-done.returncode}: is there too little memory?")
        if done.returncode or not made.exists():
            raise NotQuantised(f"ModelOpt ended with {done.returncode}: {done.stderr[-2000:]}")
        made.replace(destination)
