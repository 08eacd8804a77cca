"""onnxruntime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import graph_facts
from ..errors import IN_VENV, EnvironmentFault, UnsafeInput, UsageError
from .base import OnProcessor, Settings

if TYPE_CHECKING:
    import numpy as np


# onnxruntime 1.31 makes int32 biases out of float ones, at a scale that underflows in FP16, and the logits are noise
# then; files that want integer biases bring their own.
DISABLED = ["WeightBiasQuantization"]
# Bytes are an ONNX file and nothing else: left to itself, onnxruntime takes those with "ORTM" at their fifth for a format
# of its own, and runs another graph than the one that was looked at.
AS_ONNX = ("session.load_model_format", "ONNX")


class OrtRunner(OnProcessor):
    """A Runner. The model is given as bytes, so that onnxruntime has no folder from which to read external data."""

    name = "onnxruntime"

    def __init__(self, settings: Settings | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EnvironmentFault(
                f"onnxruntime is not installed here: python3 -m pip install onnxruntime {IN_VENV}"
            ) from error
        self.version: str = onnxruntime.__version__
        self._runtime: Any = onnxruntime
        self._run: Any = None
        self._input = ""
        self._outputs: list[str] = []

    def open(self, model: bytes, threads: int) -> None:
        if threads < 1:
            raise UsageError("--threads must be 1 or more.")
        graph_facts.refuse_foreign(model)
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry(*AS_ONNX)
        options.log_severity_level = 4  # what goes wrong is raised; nothing else belongs on the user's terminal
        try:
            session = self._runtime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED
            )
        except Exception as error:
            raise self._explained(error) from error
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)":
            raise UsageError("The model must take one float32 input and give one output. Export the bundle again.")
        self._run, self._input, self._outputs = session.run, inputs[0].name, [outputs[0].name]

    def infer(self, images: np.ndarray) -> np.ndarray:
        try:
            logits: np.ndarray = self._run(self._outputs, {self._input: images})[0]
        except Exception as error:
            raise self._explained(error) from error
        return logits

    def close(self) -> None:
        self._run = None

    def _explained(self, error: Exception) -> Exception:
        """onnxruntime's exception as one of ours, by what it says."""
        text = " ".join(str(error).split())
        if "xternal data" in text or "model_path must not be empty" in text:
            return UnsafeInput("The model keeps its weights in another file, which is refused. Export it as one file.")
        if "not a registered function/op" in text:
            return UnsafeInput(f"The model uses a custom operator, which is refused: {text:.200}")
        return UsageError(
            f"onnxruntime {self.version} cannot run the model: {text:.200}. "
            "Copy the bundle again, or upgrade onnxruntime."
        )
