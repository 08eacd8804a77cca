"""How far an ONNX file is from the torch network it came from, on real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekd.errors import UsageError
from edgekd.types import Rate
from edgekd_device.runtime.ort import AS_ONNX, DISABLED

_BATCH = 100


@dataclass(frozen=True)
class Parity:
    """max_abs_difference: of the logits; relative_difference: norm of the difference over the norm of the logits."""

    max_abs_difference: float
    relative_difference: float
    agreement: Rate  # images that both give the same label


def session(data: bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """An onnxruntime CPU session on the bytes; threads 0 = as many as torch uses."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*AS_ONNX)
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED)


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the largest magnitude that any operator returned."""

    value: float = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
                self.value = max(self.value, float(torch.linalg.vector_norm(tensor, float("inf"))))
        return result


def largest_activation(module: nn.Module, images: np.ndarray) -> float:
    """The largest magnitude inside the network on the first of images [N, C, H, W] uint8.

    onnxruntime computes FP16 graphs in FP32 on a CPU, so an overflow would first show on the board.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    pixels = torch.from_numpy(images[:_BATCH]).to(device).float() / 255
    with torch.no_grad(), _Largest() as seen:  # type: ignore[no-untyped-call]
        module(pixels)
    return float(seen.value)


def compare(module: nn.Module, data: bytes, images: np.ndarray) -> Parity:
    """Run both on images [N, C, H, W] uint8. Raises UsageError without images."""
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise UsageError(f"Parity needs images, uint8 [N, C, H, W]; got {images.dtype} {tuple(images.shape)}.")
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    runner = session(data)
    expected, found = [], []
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            pixels = images[start : start + _BATCH].astype(np.float32) / 255
            expected.append(module(torch.from_numpy(pixels).to(device)).float().cpu().numpy())
            found.append(runner.run(["logits"], {"input": pixels})[0])
    one, other = np.concatenate(expected).astype(np.float64), np.concatenate(found).astype(np.float64)
    same = int((one.argmax(1) == other.argmax(1)).sum())
    with np.errstate(invalid="ignore"):  # infinite logits give NaN here, which the caller reports
        difference = one - other
        relative = float(np.linalg.norm(difference) / max(float(np.linalg.norm(one)), 1e-12))
    return Parity(float(np.abs(difference).max()), relative, Rate(same, len(one)))
