"""An ONNX graph as a teacher: logits only, run by onnxruntime on the CPU, no gradients and no sites."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekd_device.runtime.ort import AS_ONNX, DISABLED

from ..checkpoints import graph_plan
from ..errors import UsageError
from ..types import Checkpoint, InputSpec, Model, ModelSpec
from .costs import Cost
from .normalization import Statistics, normalization
from .wrap import Network

if TYPE_CHECKING:
    import onnx

TINY = 1e-12
ARENA_BYTES = 4 << 30  # of all such sessions together: what the plan did not foresee ends in an error


class OnnxNet(nn.Module):
    """Images [B, C, H, W] in, logits [B, K] out; log-probabilities, where the graph ends in a softmax.

    batches: the numbers of images that one run may take, the largest first; no run takes another.
    """

    def __init__(self, data: bytes, batches: Sequence[int], *, softmax: bool = False) -> None:
        super().__init__()
        self.data, self.batches, self.softmax = data, tuple(batches), softmax
        self._session: Any = None

    @property
    def session(self) -> Any:
        """Made on first use, and again in a copy: a session can be neither copied nor pickled."""
        if self._session is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 3
            options.add_session_config_entry(*AS_ONNX)
            _bound_memory()
            options.add_session_config_entry("session.use_env_allocators", "1")
            self._session = onnxruntime.InferenceSession(
                self.data, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED
            )
        return self._session

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}

    def forward(self, images: Tensor) -> Tensor:
        entry = self.session.get_inputs()[0]
        pixels = images.detach().float().cpu().contiguous().numpy()
        if entry.type == "tensor(float16)":
            pixels = pixels.astype(np.float16)
        parts: list[np.ndarray] = []
        while (done := sum(map(len, parts))) < len(pixels):
            size = next((batch for batch in self.batches if batch <= len(pixels) - done), self.batches[-1])
            parts.append(self.batch(pixels[done : done + size], size, entry.name))
        logits = torch.from_numpy(np.concatenate(parts).astype(np.float32)).to(images.device)
        return logits.clamp_min(TINY).log() if self.softmax else logits

    def batch(self, pixels: np.ndarray, size: int, name: str) -> np.ndarray:
        """One run; a graph with a fixed batch size gets its last batch filled up with repeats."""
        filled = np.resize(pixels, (size, *pixels.shape[1:])) if len(pixels) < size else pixels
        answer: np.ndarray = self.session.run(None, {name: filled})[0]
        return answer[: len(pixels)]


@functools.cache
def _bound_memory() -> None:
    """Sessions that ask for the shared allocator get at most ARENA_BYTES between them."""
    import onnxruntime as ort

    info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    exactly = 1  # as much as is asked for, instead of the next power of two
    ort.create_and_register_allocator(info, ort.OrtArenaCfg({"max_mem": ARENA_BYTES, "arena_extend_strategy": exactly}))


def onnx_teacher(
    checkpoint: Checkpoint,
    input_shape: tuple[int, ...],
    num_classes: int | None = None,
    *,
    normalize: str | Statistics | None = None,
) -> Model:
    """A model from the bytes of an ONNX graph that ``checkpoints.load`` accepted.

    input_shape: (C, H, W) of the images. normalize: what the graph expects before it; None: it takes pixels in [0, 1].
    Raises UsageError unless it takes one such image tensor, runs, and returns [B, K]; UnsafeInput where a run would
    take more memory or time than a classifier does (checkpoints.graph_plan).
    """
    import onnx

    graph = onnx.load_model_from_string(checkpoint.onnx)
    pixels = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
    check_input(graph, pixels)
    inputs = InputSpec(*pixels, *normalization(normalize, pixels[0]))
    plan = graph_plan(checkpoint.onnx, checkpoint.path, pixels)
    net = OnnxNet(checkpoint.onnx, plan.batches, softmax=ends_in_softmax(graph))
    module = Network(net, inputs).eval()
    try:
        logits = module(torch.full((1, *pixels), 0.5))
    except Exception as error:  # onnxruntime raises a class per status code
        raise UsageError(
            f"onnxruntime cannot run {checkpoint.path} on one image: {str(error).splitlines()[0]}"
        ) from error
    if logits.dim() != 2 or (num_classes is not None and logits.shape[1] < num_classes):
        wanted = f"[1, {num_classes}]" if num_classes is not None else "[1, K]"
        raise UsageError(f"{checkpoint.path} returns {list(logits.shape)} for one image, expected logits {wanted}.")
    return Model(ModelSpec("onnx", int(logits.shape[1]), inputs), module, checkpoint.sha256)


def check_input(graph: onnx.ModelProto, input_shape: tuple[int, int, int]) -> None:
    """Raise UsageError unless the graph takes exactly one float tensor of such images."""
    from onnx import TensorProto

    weights = {weight.name for weight in graph.graph.initializer}
    entries = [entry for entry in graph.graph.input if entry.name not in weights]
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    if len(entries) != 1 or entries[0].type.tensor_type.elem_type not in floats:
        raise UsageError(
            f"The ONNX teacher has {len(entries)} inputs ({', '.join(entry.name for entry in entries)}); edgekd needs "
            "one float32 or float16 tensor [N, C, H, W]."
        )
    dimensions = [size.dim_value or None for size in entries[0].type.tensor_type.shape.dim]
    known = dimensions[1:] if len(dimensions) == 4 else [-1]
    if any(size not in (None, wanted) for size, wanted in zip(known, input_shape, strict=False)):
        raise UsageError(
            f"The ONNX teacher's input is {[size or '?' for size in dimensions]}, but the images are "
            f"{list(input_shape)} (C, H, W). Resize them with --image-size, or export the teacher with [N, C, H, "
            "W] input."
        )


def ends_in_softmax(graph: onnx.ModelProto) -> bool:
    """Whether the first output comes from a Softmax."""
    wanted = graph.graph.output[0].name if graph.graph.output else ""
    return any(node.op_type == "Softmax" and wanted in node.output for node in graph.graph.node)


def onnx_cost(checkpoint: Checkpoint, input_shape: tuple[int, int, int] | None = None) -> Cost:
    """Float initialisers, and multiply-adds of Conv, Gemm and MatMul with constant weights, for one image.

    input_shape: (C, H, W) of the images; without it a graph that leaves its image size free has no multiply-adds.
    """
    plan = graph_plan(checkpoint.onnx, checkpoint.path, input_shape)
    return Cost(plan.parameters, plan.macs)
