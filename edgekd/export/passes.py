"""What is done to an exported graph before it is written; each pass changes the protobuf in place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import UsageError


def _constants(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def _makers(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in proto.graph.node for output in node.output}


def _add(proto: onnx.ModelProto, name: str, value: np.ndarray) -> str:
    proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def _replace(proto: onnx.ModelProto, old: onnx.NodeProto, *new: onnx.NodeProto) -> None:
    position = list(proto.graph.node).index(old)
    proto.graph.node.remove(old)
    for offset, node in enumerate(new):
        proto.graph.node.insert(position + offset, node)


def _drop_unused(proto: onnx.ModelProto) -> None:
    used = {name for node in proto.graph.node for name in node.input}
    for tensor in [t for t in proto.graph.initializer if t.name not in used]:
        proto.graph.initializer.remove(tensor)


def global_pooling(proto: onnx.ModelProto) -> None:
    """A mean over both spatial axes becomes GlobalAveragePool, for which every runtime has an integer kernel."""
    constants = _constants(proto)
    shapes = {value.name: len(value.type.tensor_type.shape.dim) for value in proto.graph.value_info}
    for node in [n for n in proto.graph.node if n.op_type == "ReduceMean"]:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        axes = constants.get(node.input[1]) if len(node.input) > 1 else None
        if axes is None or shapes.get(node.input[0]) != 4 or sorted(int(a) % 4 for a in axes) != [2, 3]:
            continue
        if attributes.get("keepdims", 1):
            _replace(proto, node, helper.make_node("GlobalAveragePool", node.input[:1], node.output, node.name))
        else:
            pooled = node.output[0] + ".pooled"
            pool = helper.make_node("GlobalAveragePool", node.input[:1], [pooled], node.name)
            # a constant shape: from Flatten, TensorRT's parser makes a chain that computes the shape
            shape = _add(proto, node.output[0] + ".shape", np.array([0, -1], np.int64))
            reshape = helper.make_node("Reshape", [pooled, shape], node.output, node.name + ".reshape")
            _replace(proto, node, pool, reshape)
    _drop_unused(proto)


def integer_weights(proto: onnx.ModelProto, scale_type: type[np.floating]) -> None:
    """Weights are stored as the integers they are rounded to: a quarter of the bytes, and nothing to fold at load.

    Rounds half to even on w * (1 / scale), as torch's fake quantiser does; scales of ``scale_type`` are rounded first,
    so that the integers belong to the scale that the file holds.
    """
    constants = _constants(proto)
    for node in [n for n in proto.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in constants]:
        weight, scale, zero_point = (constants[name] for name in node.input)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [-1 if i == axis else 1 for i in range(weight.ndim)] if scale.ndim else [1] * weight.ndim
        scale = scale.astype(scale_type).astype(np.float32).reshape(shape)
        low, high = np.iinfo(zero_point.dtype).min, np.iinfo(zero_point.dtype).max
        rounded = np.rint(weight * (np.float32(1) / scale)) + zero_point.reshape(shape)
        name = _add(proto, node.output[0] + ".integers", np.clip(rounded, low, high).astype(zero_point.dtype))
        for user in proto.graph.node:
            for position, source in enumerate(user.input):
                if source == node.output[0]:
                    user.input[position] = name
        proto.graph.node.remove(node)
    _drop_unused(proto)


def _dequantized(proto: onnx.ModelProto, node: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The nodes that dequantise a layer's input and weight, when both do."""
    makers = _makers(proto)
    found = [makers.get(name) for name in node.input[:2]]
    if any(maker is None or maker.op_type != "DequantizeLinear" for maker in found):
        return None
    return found[0], found[1]  # type: ignore[return-value]


def integer_biases(proto: onnx.ModelProto) -> None:
    """Biases of quantised layers as int32 at the scale of the products, as onnxruntime's integer kernels want them."""
    constants = _constants(proto)
    for node in [n for n in proto.graph.node if n.op_type in ("Conv", "Gemm") and len(n.input) == 3]:
        sources = _dequantized(proto, node)
        bias = constants.get(node.input[2])
        if sources is None or bias is None:
            continue
        scale = constants[sources[0].input[1]] * constants[sources[1].input[1]]
        integers = np.rint(bias.astype(np.float64) / scale)
        limit = np.iinfo(np.int32)
        name = node.name + ".bias"
        inputs = [
            _add(proto, name + ".integers", np.clip(integers, limit.min, limit.max).astype(np.int32)),
            _add(proto, name + ".scale", scale.astype(np.float32)),
            _add(proto, name + ".zero_point", np.zeros(scale.shape, np.int32)),
        ]
        dequantize = helper.make_node("DequantizeLinear", inputs, [name], name, axis=0)
        node.input[2] = name
        proto.graph.node.insert(list(proto.graph.node).index(node), dequantize)
    _drop_unused(proto)


def to_half(proto: onnx.ModelProto) -> None:
    """All floats inside become FP16, between one cast behind the input and one in front of the logits.

    Raises UsageError when a weight does not fit FP16.
    """
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(_halved(tensor, tensor.name))
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_halved(attribute.t, node.name))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    source, result = proto.graph.input[0].name, proto.graph.output[0].name
    for node in proto.graph.node:
        node.input[:] = [source + ".half" if name == source else name for name in node.input]
        node.output[:] = [result + ".half" if name == result else name for name in node.output]
        node.input[:] = [result + ".half" if name == result else name for name in node.input]
    proto.graph.node.insert(
        0, helper.make_node("Cast", [source], [source + ".half"], source + ".cast", to=TensorProto.FLOAT16)
    )
    proto.graph.node.append(
        helper.make_node("Cast", [result + ".half"], [result], result + ".cast", to=TensorProto.FLOAT)
    )


def _halved(tensor: TensorProto, name: str) -> TensorProto:
    value = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    if not np.isfinite(half).all():
        raise UsageError(
            f"{name} holds {np.abs(value).max():.3g}, which FP16 cannot hold. Leave the FP16 files out of this bundle."
        )
    return numpy_helper.from_array(half, tensor.name)


def finish(proto: onnx.ModelProto, opset: int) -> None:
    """Set the versions, and strip what says where and when the graph was made."""
    del proto.metadata_props[:], proto.graph.metadata_props[:], proto.graph.value_info[:]
    proto.producer_name = proto.producer_version = proto.doc_string = proto.graph.doc_string = proto.domain = ""
    proto.model_version = 0
    proto.graph.name = "edgekd"
    proto.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("", opset))
    for part in _parts(proto):
        part.doc_string = ""
        del part.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _parts(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto | onnx.TensorProto | onnx.ValueInfoProto]:
    graph = proto.graph
    yield from (*graph.node, *graph.initializer, *graph.input, *graph.output)
