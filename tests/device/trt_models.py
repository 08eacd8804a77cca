"""Small classifiers in the flavours of a bundle: an image's class is its brightest channel, as in bundles.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SYMMETRIC = np.int8(0)
FLAVOURS = ("model.onnx", "model.fp16.onnx", "model.qdq.onnx", "model.qdq.fp16.onnx")


def model(name: str = "model.qdq.onnx", zero: Any = SYMMETRIC, batch: Any = "N", constant: bool = False) -> bytes:
    """[N, 3, 8, 8] -> [N, 3]: a 1 x 1 convolution, pooling, a matrix product.

    zero: the zero point of the Q/DQ pair, None for none. constant: it comes from a Constant node.
    """
    kind = np.float16 if "fp16" in name else np.float32
    tensors = {"kernel": np.eye(3).reshape(3, 3, 1, 1).astype(kind), "weights": (10 * np.eye(3)).astype(kind)}
    nodes, source = [], "input"
    if kind is np.float16:
        nodes.append(helper.make_node("Cast", ["input"], ["half"], to=TensorProto.FLOAT16))
        source = "half"
    if "qdq" in name or "u8s8" in name:
        tensors["step"] = np.array(1 / 127, kind)
        points = []
        if zero is not None:
            points = ["zero"]
            if constant:
                nodes.append(helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.array(zero))))
            else:
                tensors["zero"] = np.array(zero)
        nodes.append(helper.make_node("QuantizeLinear", [source, "step", *points], ["q"], name="quantise"))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "step", *points], ["d"], name="back"))
        source = "d"
    nodes += [
        helper.make_node("Conv", [source, "kernel"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["product" if kind is np.float16 else "logits"]),
    ]
    if kind is np.float16:
        nodes.append(helper.make_node("Cast", ["product"], ["logits"], to=TensorProto.FLOAT))
    return proto(nodes, tensors, batch).SerializeToString(deterministic=True)


def proto(nodes: list[Any], tensors: dict[str, np.ndarray], batch: Any = "N", **more: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9, **more)
