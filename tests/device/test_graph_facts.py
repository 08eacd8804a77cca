"""What is read of an ONNX file with the standard library, held against files made by onnx itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import trt_models
from onnx import TensorProto, helper, numpy_helper

from edgekd_device import graph_facts
from edgekd_device.errors import EdgekdError, UnsafeInput, UsageError

QDQ = [
    helper.make_node("QuantizeLinear", ["input", "step", "zero"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["logits"], name="back"),
]


@pytest.mark.parametrize(
    ("name", "half", "quantised", "int8_layers"),
    [
        ("model.onnx", False, False, 0),
        ("model.fp16.onnx", True, False, 0),
        ("model.qdq.onnx", False, True, 1),
        ("model.qdq.fp16.onnx", True, True, 1),
    ],
)
def test_flavours(name, half, quantised, int8_layers):
    assert graph_facts.read(trt_models.model(name)) == graph_facts.Facts(half, quantised, 2, int8_layers)


def test_a_cast_alone_makes_types_meant():
    nodes = [
        helper.make_node("Cast", ["input"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["h"], ["logits"], to=TensorProto.FLOAT),
    ]
    assert graph_facts.read(trt_models.proto(nodes, {}).SerializeToString()).half


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    ("zero", "word"),
    [
        (np.uint8(0), "UINT8 zero points"),
        (np.uint8(128), "UINT8 zero points"),
        (np.int8(3), "zero points that are not zero"),
        (np.array([0, 0, 1], np.int8), "zero points that are not zero"),
        (np.int32(0), "INT32 zero points"),
        (np.uint16(0), "UINT16 zero points"),
        (None, "by leaving them out"),
    ],
)
def test_what_tensorrt_would_misread_is_refused(zero, word, constant):
    with pytest.raises(UsageError, match=rf"QuantizeLinear 'quantise' has .*{word}.*--runtime onnxruntime"):
        graph_facts.read(trt_models.model("model.u8s8.onnx", zero, constant=constant))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("zero", [np.int8(0), np.zeros(3, np.int8)])
def test_symmetric_int8_is_taken(zero, constant):
    assert graph_facts.read(trt_models.model(zero=zero, constant=constant)).quantised


def test_zero_points_in_the_field_for_numbers():
    """onnx writes them there with make_tensor; raw bytes are what our own export writes."""
    for values, accepted in (([0], True), ([5], False)):
        made = trt_models.proto(QDQ, {"step": np.float32(1)})
        made.graph.initializer.append(helper.make_tensor("zero", TensorProto.INT8, [1], values))
        if accepted:
            assert graph_facts.read(made.SerializeToString()).quantised
        else:
            with pytest.raises(UsageError, match="not zero"):
                graph_facts.read(made.SerializeToString())


def test_a_zero_point_that_is_computed():
    nodes = [helper.make_node("Neg", ["other"], ["zero"]), *QDQ]
    with pytest.raises(UsageError, match="that is computed"):
        graph_facts.read(trt_models.proto(nodes, {"step": np.float32(1)}).SerializeToString())


def with_step(step: TensorProto, nodes: list[onnx.NodeProto] = QDQ, **more: np.ndarray) -> bytes:
    made = trt_models.proto(nodes, {"zero": np.int8(0), **more})
    made.graph.initializer.append(step)
    return made.SerializeToString()


def numbers(kind: int, values: list[float], count: int = 1) -> TensorProto:
    """A tensor whose values stand in the field of their type, not in raw bytes."""
    return helper.make_tensor("step", kind, [count], values)


def raw(kind: int, data: bytes) -> TensorProto:
    return TensorProto(name="step", data_type=kind, raw_data=data)


@pytest.mark.parametrize(
    "step",
    [
        *(numpy_helper.from_array(np.array(2.0**-24, kind), "step") for kind in (np.float32, np.float16)),
        *(numbers(kind, [0.5]) for kind in (TensorProto.FLOAT, TensorProto.FLOAT16)),
    ],
)
def test_a_scale_is_read_from_either_field(step):
    assert graph_facts.read(with_step(step)).quantised


@pytest.mark.parametrize(
    ("step", "why"),
    [
        *(
            (make(np.array(value, kind)), "a scale that is not positive and finite")
            for value in (0.0, -0.0, -0.5, np.inf, np.nan)
            for kind in (np.float32, np.float16)
            for make in (
                lambda array: numpy_helper.from_array(array, "step"),
                lambda array: numbers(helper.np_dtype_to_tensor_dtype(array.dtype), [float(array)]),
            )
        ),
        (raw(TensorProto.FLOAT, b""), "a scale that is not positive and finite"),
        (raw(TensorProto.FLOAT, bytes(6)), "a scale that cannot be read"),
        (TensorProto(name="step", data_type=TensorProto.FLOAT16, int32_data=[1 << 20]), "a scale that cannot be read"),
        (raw(TensorProto.DOUBLE, np.float64(1).tobytes()), "type 11 scales"),
        (raw(TensorProto.FLOAT, bytes(4 * graph_facts.CHANNELS + 4)), "a scale of more than 65536 values"),
        (numpy_helper.from_array(np.full(3, 0.5, np.float32), "step"), "a scale per channel for an activation"),
    ],
)
def test_a_scale_that_tensorrt_does_not_take_is_refused(step, why):
    quantise = helper.make_node("QuantizeLinear", ["input", "step", "zero"], ["q"], name="quantise")
    with pytest.raises(UsageError, match=rf"cannot go to TensorRT: QuantizeLinear 'quantise' has {why}\. Export"):
        graph_facts.read(with_step(step, [quantise, QDQ[1]]))


def test_a_scale_of_another_wire_type_is_not_read_and_asks_for_no_memory():
    """One number where bytes belong, which bytes() would take for a length; and integers unpacked, which are fine."""
    name, kind = b"\x42\x04step", b"\x10\x01"
    for data, good in ((kind + b"\x48" + b"\xff" * 4 + b"\x7f", False), (b"\x10\x0a\x28" + b"\x80\x78", True)):
        tensor = name + data
        made = trt_models.proto(QDQ, {"zero": np.int8(0)}).SerializeToString()
        graph = b"\x2a" + bytes([len(tensor)]) + tensor
        model = made + b"\x3a" + bytes([len(graph)]) + graph  # a second part of the same graph
        if good:
            assert graph_facts.read(model).quantised
        else:
            with pytest.raises(UsageError, match="cannot be read"):
                graph_facts.read(model)


def test_a_scale_per_channel_is_for_weights():
    weights, scales = np.ones((3, 3, 1, 1), np.float32), np.full(3, 0.5, np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["weights", "step", "zeros"], ["q"], axis=0),
        helper.make_node("DequantizeLinear", ["q", "step", "zeros"], ["d"], axis=0),
        helper.make_node("Conv", ["input", "d"], ["logits"]),
    ]
    step = numpy_helper.from_array(scales, "step")
    assert graph_facts.read(with_step(step, nodes, weights=weights, zeros=np.zeros(3, np.int8))).quantised


def test_a_scale_that_is_computed():
    nodes = [helper.make_node("Exp", ["other"], ["step"]), *QDQ]
    with pytest.raises(UsageError, match="has a scale that is computed"):
        graph_facts.read(trt_models.proto(nodes, {"zero": np.int8(0)}).SerializeToString())


def test_of_two_constants_of_one_name_none_is_taken():
    """Else the first would be read, and the last one judged; a tensor in an attribute has no name that a node reads."""
    with pytest.raises(UsageError, match="two constants called 'zero'"):
        graph_facts.read(with_step(numpy_helper.from_array(np.int8(3), "zero")))
    shape = numpy_helper.from_array(np.array([0], np.int8), "zero")
    fill = helper.make_node("ConstantOfShape", ["other"], ["filled"], value=shape)
    bad = trt_models.proto([*QDQ, fill, fill], {"step": np.float32(1), "zero": np.int8(3)})
    with pytest.raises(UsageError, match="not zero"):
        graph_facts.read(bad.SerializeToString())


def test_without_a_zero_point():
    """The type is the values' own; for QuantizeLinear it is UINT8 unless an attribute says INT8."""
    nodes = [helper.make_node("DequantizeLinear", ["weights", "step"], ["logits"], name="back")]
    step = np.float32(1)
    good = trt_models.proto(nodes, {"step": step, "weights": np.ones(3, np.int8)})
    assert graph_facts.read(good.SerializeToString()).quantised
    for kind, word in ((np.int32, "INT32"), (np.uint8, "UINT8")):
        bad = trt_models.proto(nodes, {"step": step, "weights": np.ones(3, kind)})
        with pytest.raises(UsageError, match=f"'back' has {word} values"):
            graph_facts.read(bad.SerializeToString())
    said = helper.make_node("QuantizeLinear", ["input", "step"], ["q"], output_dtype=TensorProto.INT8)
    back = helper.make_node("DequantizeLinear", ["q", "step"], ["logits"])
    assert graph_facts.read(trt_models.proto([said, back], {"step": step}).SerializeToString()).quantised


def test_graphs_within_nodes_are_walked():
    inner = helper.make_graph(QDQ, "inner", [], [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [])])
    node = helper.make_node("If", ["condition"], ["logits"], then_branch=inner, else_branch=inner)
    tensors = {"step": np.float32(1), "zero": np.uint8(0)}
    with pytest.raises(UsageError, match="UINT8 zero points"):
        graph_facts.read(trt_models.proto([node], tensors).SerializeToString())
    for _ in range(graph_facts.DEPTH + 1):
        node = helper.make_node("If", ["c"], ["d"], then_branch=helper.make_graph([node], "deep", [], []))
    with pytest.raises(UsageError, match="too deep"):
        graph_facts.read(trt_models.proto([node], {}).SerializeToString())


def _custom() -> onnx.ModelProto:
    return trt_models.proto([helper.make_node("Run", ["input"], ["logits"], domain="evil\x1b[2J")], {})


def _external() -> onnx.ModelProto:
    made = trt_models.proto([helper.make_node("Neg", ["input"], ["logits"])], {"w": np.ones(3, np.float32)})
    made.graph.initializer[0].ClearField("raw_data")
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return made


def _external_attribute() -> onnx.ModelProto:
    tensor = numpy_helper.from_array(np.ones(3, np.float32))
    tensor.external_data.add(key="location", value="/etc/passwd")
    return trt_models.proto([helper.make_node("Constant", [], ["logits"], value=tensor)], {})


def _functions() -> onnx.ModelProto:
    body = helper.make_function("own", "Twice", ["x"], ["y"], [helper.make_node("Neg", ["x"], ["y"])], [])
    return trt_models.proto([helper.make_node("Neg", ["input"], ["logits"])], {}, functions=[body])


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (_custom, "custom operator"),
        (_external, "in another file"),
        (_external_attribute, "in another file"),
        (_functions, "its own functions"),
    ],
)
def test_what_reaches_outside_is_refused(make, word):
    with pytest.raises(UnsafeInput, match=word) as caught:
        graph_facts.read(make().SerializeToString())
    assert str(caught.value).isprintable()


def test_sparse_tensors():
    made = trt_models.proto([helper.make_node("Neg", ["input"], ["logits"])], {})
    made.graph.sparse_initializer.add()
    with pytest.raises(UsageError, match="sparse"):
        graph_facts.read(made.SerializeToString())


@pytest.mark.parametrize(
    "data", [b"", b"no model at all", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x08\x07", b"\x3a\x00"]
)
def test_what_is_no_model(data):
    with pytest.raises(UsageError):
        graph_facts.read(data)


def test_every_cut_and_every_flipped_byte_ends_in_an_answer_or_in_our_own_error():
    """Exhaustive over one file: no other exception, no endless loop."""
    good = trt_models.model()
    refused = 0
    for k in range(len(good)):
        flipped = bytes([*good[:k], good[k] ^ 0xFF, *good[k + 1 :]])
        for data in (good[:k], flipped):
            try:
                graph_facts.read(data)
            except EdgekdError:
                refused += 1
    assert refused > len(good)
