"""The ONNX checker: what passes, and what only a limit refuses. The refusals are rows of the contract test."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.checkpoints import onnx_check
from edgekd.errors import UnsafeInput, UsageError

FLOAT = TensorProto.FLOAT


def graph(nodes: list, constants: list, output: str = "logits", opset: int = 18, inputs: list | None = None) -> bytes:
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes, "g", inputs or [value("input", FLOAT, ["N", 3, 4, 4])], [value(output, FLOAT, ["N", 2])], constants
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)]).SerializeToString()


def constant(name: str, values: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(values, name)


def test_a_quantised_graph_passes_with_its_facts() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
        helper.make_node("Constant", [], ["shape"], value=constant("", np.array([0, 48], np.int64))),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("Clip", ["flat", "low", "high"], ["clipped"]),
        helper.make_node("Gemm", ["clipped", "weight", "bias"], ["logits"]),
    ]
    constants = [
        constant("scale", np.array(0.1, np.float32)),
        constant("zero", np.array(128, np.uint8)),
        constant("low", np.array(0, np.float32)),
        constant("high", np.array(np.inf, np.float32)),
        constant("weight", np.zeros((48, 2), np.float32)),
        helper.make_tensor("bias", TensorProto.FLOAT16, [2], [1.0, 2.0]),
        helper.make_tensor("unused", FLOAT, [0], []),
        helper.make_tensor("typed", FLOAT, [2], [1.0, 2.0]),
    ]
    facts = onnx_check.check(graph(nodes, constants))
    assert facts["opset"] == 18
    assert facts["operators"]["Gemm"] == 1
    assert facts["input"] == {"name": "input", "type": FLOAT, "shape": [None, 3, 4, 4]}
    assert facts["output"]["shape"] == [None, 2]


def test_bfloat16_is_checked_too() -> None:
    good = helper.make_tensor("w", TensorProto.BFLOAT16, [2], [1.0, 2.0])
    bad = helper.make_tensor("w", TensorProto.BFLOAT16, [2], [1.0, float("nan")])
    node = helper.make_node("Add", ["input", "w"], ["logits"])
    onnx_check.check(graph([node], [good]))
    with pytest.raises(UsageError, match="NaN"):
        onnx_check.check(graph([node], [bad]))


def test_unused_operator_sets_do_no_harm() -> None:
    model = onnx.ModelProto.FromString(graph([helper.make_node("Relu", ["input"], ["logits"])], []))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert onnx_check.check(model.SerializeToString())["opset"] == 18


@pytest.mark.parametrize("opset", [8, 99])
def test_foreign_operator_sets(opset: int) -> None:
    with pytest.raises(UsageError, match="operator set"):
        onnx_check.check(graph([helper.make_node("Relu", ["input"], ["logits"])], [], opset=opset))


def test_an_operator_made_of_many_tensors_and_no_name() -> None:
    node = helper.make_node("Identity", ["input"], ["logits"])
    node.attribute.add(name="many", type=9).tensors.append(constant("a", np.ones(1, np.float32)))
    onnx_check.check(graph([node], []))
    node.output.append("")
    onnx_check.check(graph([node], []))


@pytest.mark.parametrize(
    ("limit", "value", "word"),
    [("GRAPH_BYTES", 64, "over 64"), ("NODES", 0, "more than 0"), ("NAME", 3, "too long")],
)
def test_limits(limit: str, value: int, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = graph(
        [helper.make_node("Add", ["input", "weight"], ["logits"])], [constant("weight", np.ones(9, np.float32))]
    )
    monkeypatch.setattr(onnx_check, limit, value)
    with pytest.raises((UnsafeInput, UsageError), match=word):
        onnx_check.check(data)


def test_the_sum_of_all_tensors_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [constant(f"w{n}", np.ones(10, np.float32)) for n in range(4)]
    sizes = onnx_check._Sizes()
    monkeypatch.setattr(onnx_check, "GRAPH_BYTES", 150)
    for tensor in tensors[:3]:
        sizes.check(tensor)
    with pytest.raises(UnsafeInput, match="more than 150"):
        sizes.check(tensors[3])
