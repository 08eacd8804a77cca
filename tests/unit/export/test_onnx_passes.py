"""Every pass over the graph, on graphs of two or three nodes."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import UsageError
from edgekd.export import passes
from edgekd.quantize.fake import WeightQuantizer


def graph(nodes, constants, inputs=(2, 3, 4, 4), outputs=(2, 3)) -> onnx.ModelProto:
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "made by hand",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *inputs[1:]])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", *outputs[1:]])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
            value_info=[helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", *inputs[1:]])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        producer_name="somebody",
        doc_string="made today",
    )
    proto.ir_version = 10
    return proto


def run(proto: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


def constant(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == name)


IMAGES = np.random.default_rng(0).random((2, 3, 4, 4), dtype=np.float32)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_a_mean_over_space_becomes_global_pooling(axes, keepdims):
    nodes = [
        helper.make_node("Relu", ["input"], ["features"]),
        helper.make_node("ReduceMean", ["features", "axes"], ["pooled"], keepdims=keepdims),
        helper.make_node("Reshape", ["pooled", "shape"], ["logits"]),
    ]
    proto = graph(nodes, {"axes": np.array(axes), "shape": np.array([-1, 3])})
    before = run(proto, IMAGES)
    passes.global_pooling(proto)
    assert [n.op_type for n in proto.graph.node][1] == "GlobalAveragePool"
    assert "axes" not in [t.name for t in proto.graph.initializer]
    assert np.allclose(run(proto, IMAGES), before, atol=1e-6)


def test_other_means_stay():
    node = helper.make_node("ReduceMean", ["features", "axes"], ["logits"], keepdims=1)
    nodes = [helper.make_node("Relu", ["input"], ["features"]), node]
    proto = graph(nodes, {"axes": np.array([1])}, outputs=(2, 1, 4, 4))
    passes.global_pooling(proto)
    assert proto.graph.node[1].op_type == "ReduceMean"


def quantized_layer(weight, scale, bias, input_scale=0.01) -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["x"]),
        helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], axis=0),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("Conv", ["x", "wd", "b"], ["conv"], "conv"),
        helper.make_node("GlobalAveragePool", ["conv"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    constants = {
        "xs": np.float32(input_scale),
        "xz": np.uint8(0),
        "w": weight,
        "ws": scale,
        "wz": np.zeros(len(scale), np.int8),
        "b": bias,
    }
    return graph(nodes, constants, outputs=(2, len(scale)))


@pytest.fixture
def layer() -> onnx.ModelProto:
    weight = np.random.default_rng(1).normal(size=(5, 3, 1, 1)).astype(np.float32)
    weight[0, :, 0, 0] = 1.27, 0.015, 0.025  # at scale 0.01: 127, and two halves that go to the even neighbour
    scale = np.abs(weight).max((1, 2, 3)) / np.float32(127)
    scale[0] = 0.01
    return quantized_layer(weight, scale, np.linspace(-1, 1, 5).astype(np.float32))


def test_weights_are_stored_as_the_integers_of_torchs_fake_quantiser(layer):
    before = run(layer, IMAGES)
    weight, scale = torch.from_numpy(constant(layer, "w").copy()), constant(layer, "ws")
    passes.integer_weights(layer, np.float32)
    stored = constant(layer, "wq.integers")
    assert stored.dtype == np.int8
    assert stored[0].ravel().tolist() == [127, 2, 2]
    assert np.allclose(
        stored * scale.reshape(-1, 1, 1, 1), WeightQuantizer(weight, torch.from_numpy(scale.copy()))(weight), atol=1e-7
    )
    assert [n.op_type for n in layer.graph.node].count("QuantizeLinear") == 1
    assert "w" not in [t.name for t in layer.graph.initializer]
    assert np.allclose(run(layer, IMAGES), before, atol=1e-6)


def test_integers_belong_to_the_scale_that_the_file_holds():
    """A scale rounded to FP16 gets integers of its own, or every weight would be off by the same share."""
    weight = np.full((1, 3, 1, 1), 1.0, np.float32)
    scale = np.array([0.0100021], np.float32)  # FP16 has 0.0100021362...: 99.98 steps either way
    proto = quantized_layer(weight, scale, np.zeros(1, np.float32))
    passes.integer_weights(proto, np.float16)
    expected = np.rint(1.0 / float(np.float16(scale[0])))
    assert set(constant(proto, "wq.integers").ravel()) == {expected}


def test_biases_become_int32_at_the_scale_of_the_products(layer):
    before = run(layer, IMAGES)
    bias, scale = constant(layer, "b"), constant(layer, "ws")
    passes.integer_weights(layer, np.float32)
    passes.integer_biases(layer)
    integers = constant(layer, "conv.bias.integers")
    assert integers.dtype == np.int32
    assert np.array_equal(integers, np.rint(bias.astype(np.float64) / (np.float32(0.01) * scale)))
    assert np.allclose(constant(layer, "conv.bias.scale"), 0.01 * scale)
    assert np.allclose(run(layer, IMAGES), before, atol=1e-4)
    order = [n.op_type for n in layer.graph.node]
    assert order.index("Conv") > 2


def test_biases_of_float_layers_stay(layer):
    for node in layer.graph.node:
        if node.op_type == "Conv":
            node.input[0] = "input"
    passes.integer_biases(layer)
    assert "b" in [t.name for t in layer.graph.initializer]


def test_half_precision_reaches_every_float(layer):
    before = run(layer, IMAGES)
    passes.integer_weights(layer, np.float16)
    passes.to_half(layer)
    passes.finish(layer, 19)
    kinds = {t.name: t.data_type for t in layer.graph.initializer}
    assert TensorProto.FLOAT not in kinds.values()
    assert kinds["xs"] == kinds["ws"] == TensorProto.FLOAT16
    assert layer.graph.node[0].op_type == layer.graph.node[-1].op_type == "Cast"
    assert layer.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    onnx.checker.check_model(layer, full_check=True)
    session_options = onnxruntime.SessionOptions()
    session_options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(layer.SerializeToString(), session_options)
    assert np.allclose(session.run(None, {"input": IMAGES})[0], before, atol=0.02)


def test_a_weight_too_large_for_half_precision_is_refused(layer):
    next(t for t in layer.graph.initializer if t.name == "b").CopyFrom(
        numpy_helper.from_array(np.full(5, 1e5, np.float32), "b")
    )
    with pytest.raises(UsageError, match=r"b holds 1e\+05, which FP16 cannot"):
        passes.to_half(layer)


def test_nothing_is_left_that_says_where_and_when(layer):
    layer.metadata_props.add(key="path", value="somewhere")
    layer.graph.node[0].metadata_props.add(key="stack", value="somewhere")
    layer.graph.node[0].doc_string = layer.graph.doc_string = "somewhere"
    passes.finish(layer, 18)
    assert b"some" not in layer.SerializeToString()
    assert not layer.graph.value_info
    assert (layer.ir_version, layer.opset_import[0].version) == (8, 18)
    assert layer.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
