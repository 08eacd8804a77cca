"""Whether TensorRT reads an INT8 graph as it is meant: symmetric integers, and none where it knows none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgekd.errors import UsageError


def refuse_asymmetric(data: bytes, name: str) -> None:
    """Raise UsageError where the ONNX file ``name`` holds Q/DQ that TensorRT refuses, or takes for something else.

    TensorRT's rules (developer guide, "explicit quantization"): zero points all 0 and int8, scales positive and finite,
    one scale for an activation. It reads uint8 zero points as int8 with no more than a warning, so they count too.
    """
    for fault in _faults(onnx.load_from_string(data).graph):
        raise UsageError(
            f"{name} cannot go to TensorRT: {fault}. That is a file for onnxruntime's processor kernels (flavour u8s8); "
            "TensorRT takes model.qdq.onnx or model.qdq.fp16.onnx (flavours s8 and s8-fp16)."
        )


def _faults(graph: onnx.GraphProto) -> Iterator[str]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        where = f"{node.op_type} {node.name or node.output[0]!r}"
        if len(node.input) < 3 or any(name not in constants for name in node.input[1:]):
            yield f"{where} has no constant scale and zero point"  # without one, QuantizeLinear means uint8
            continue
        scale, zero = (constants[name] for name in node.input[1:])
        if zero.data_type == TensorProto.INT32:
            yield f"{where} holds a bias in integers"
        elif zero.data_type != TensorProto.INT8:
            yield f"{where} has a zero point of type {TensorProto.DataType.Name(zero.data_type)}, not INT8"
        elif numpy_helper.to_array(zero).any():
            yield f"{where} has a zero point that is not 0"
        values = numpy_helper.to_array(scale).astype(np.float64)
        if not (np.isfinite(values) & (values > 0)).all():
            yield f"{where} has a scale that is not positive and finite"
        if node.op_type == "QuantizeLinear" and values.size > 1 and node.input[0] not in constants:
            yield f"{where} has a scale per channel for an activation"
