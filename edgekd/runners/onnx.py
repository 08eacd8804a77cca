"""The onnxruntime session of the device package, fed with the bytes of a probe set."""

from __future__ import annotations

import numpy as np

from edgekd_device.runtime.ort import OrtRunner


class OnnxRunner:
    """uint8 images [N, C, H, W] -> float32 logits [N, K], through the same session that the board's harness uses."""

    def __init__(self, model: bytes, threads: int = 1, batch_size: int = 100) -> None:
        self.batch_size = batch_size
        self.runner = OrtRunner()
        self.runner.open(model, threads)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        parts = [
            self.runner.infer(images[start : start + self.batch_size].astype(np.float32) / np.float32(255))
            for start in range(0, len(images), self.batch_size)
        ]
        return np.concatenate(parts)
