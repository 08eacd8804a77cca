"""A torch model as a function from bytes to logits, the way every stage is measured on the host."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator

import numpy as np
import torch

from edgekd.errors import UsageError
from edgekd.types import Latency, Model
from edgekd_device import latency as timing


def images_at_once(shape: tuple[int, int, int]) -> int:
    """How many images [C, H, W] pass a network together: 500 of 32 x 32; of larger ones fewer, in the same memory."""
    _, height, width = shape
    return min(500, max(16, 500 * 32 * 32 // (height * width)))


class TorchRunner:
    """uint8 images [N, C, H, W] -> float32 logits [N, K] in FP32, inference mode, channels_last, a batch at a time.

    The module is used as it is, not switched to eval, so that what is measured is what was handed over; it stays on the
    device only while it is used. Raises UsageError for images that do not fit the model's input.
    """

    def __init__(self, model: Model, device: str | torch.device = "cpu") -> None:
        self.model = model
        self.device = torch.device(device)
        self.batch_size = images_at_once(model.spec.input.shape)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        expected = self.model.spec.input.shape
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise UsageError(
                f"The model takes images of {list(expected)} (channels, height, width), but got {images.dtype} "
                f"{list(images.shape[1:])}. Read the data with size={expected[1:]}."
            )
        found = np.empty((len(images), self.model.spec.num_classes), np.float32)
        with self._placed(), torch.inference_mode(), self._full_precision():
            for start in range(0, len(images), self.batch_size):
                pixels = self._pixels(images[start : start + self.batch_size])
                found[start : start + self.batch_size] = self._infer(pixels)
        return found

    def latency(self, images: np.ndarray, threads: int = 1) -> Latency:
        """Time of one image [1, C, H, W] after another, from float pixels to logits, at the harness's level smoke.

        It tells teacher and student apart within torch; what ships is timed by its own runtime.
        """
        level, before = timing.level_named("smoke"), torch.get_num_threads()
        torch.set_num_threads(threads)
        inputs = [self._pixels(images[index : index + 1]) for index in range(min(len(images), level.inputs))]
        try:
            with self._placed(), torch.inference_mode(), self._full_precision():
                steady = timing.warm_up(self._infer, inputs, level, time.perf_counter_ns)
                block = timing.timed_block(self._infer, inputs, level.seconds, level.samples, time.perf_counter_ns)
        finally:
            torch.set_num_threads(before)
        return timing.summarise([block], level, threads, steady)

    def _infer(self, pixels: torch.Tensor) -> np.ndarray:
        logits: np.ndarray = self.model.module(pixels).float().cpu().numpy()
        return logits

    def _pixels(self, images: np.ndarray) -> torch.Tensor:
        part = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        return part.to(torch.float32, memory_format=torch.channels_last).div_(255)

    @contextlib.contextmanager
    def _placed(self) -> Iterator[None]:
        """The module on the runner's device, then back where it was."""
        module = self.model.module
        tensor = next(itertools.chain(module.parameters(), module.buffers()), None)
        home = self.device if tensor is None else tensor.device
        if home.type == self.device.type and self.device.index in (None, home.index):
            yield
            return
        module.to(self.device)
        try:
            yield
        finally:
            module.to(home)

    def _full_precision(self) -> contextlib.AbstractContextManager[None]:
        """On CUDA: no TF32 in convolutions, so that FP32 means FP32."""
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
