"""Hand-made bad ONNX graphs, as rows like those of bad_checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bad_checkpoints import Row, constant, file
from onnx import TensorProto, helper, numpy_helper


def good() -> onnx.ModelProto:
    """One Gemm on a flattened image."""
    weight = numpy_helper.from_array(np.ones((12, 3), np.float32), "weight")
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def changed(change: Callable[[Any], None]) -> Callable[[Path, Path], Path]:
    """The good graph after ``change``, serialised without any check."""

    def make(_: Path) -> bytes:
        model = good()
        change(model)
        return model.SerializeToString()

    return file(make, "bad.onnx")


def external(location: str, data: bool = True) -> Callable[[Path, Path], Path]:
    def change(model: Any) -> None:
        tensor = model.graph.initializer[0]
        if data:
            tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return changed(change)


def add_node(*arguments: Any, **attributes: Any) -> Callable[[Path, Path], Path]:
    def change(model: Any) -> None:
        model.graph.node.insert(0, helper.make_node(*arguments, **attributes))

    return changed(change)


def branch(model: Any) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["flat"], ["z"])], "b", [], [])
    model.graph.node.append(helper.make_node("If", ["flat"], ["y"], then_branch=inner, else_branch=inner))


def attribute_external(model: Any) -> None:
    tensor = TensorProto(name="c", dims=[1], data_type=1, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))


def weight(**fields: Any) -> Callable[[Path, Path], Path]:
    """The good graph with fields of its weight replaced."""

    def change(model: Any) -> None:
        tensor = model.graph.initializer[0]
        for name, value in fields.items():
            tensor.ClearField(name)
            if isinstance(value, (list, tuple)):
                getattr(tensor, name).extend(value)
            else:
                setattr(tensor, name, value)

    return changed(change)


def second_input(model: Any) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def no_opset(model: Any) -> None:
    del model.opset_import[:]


def not_a_tensor(model: Any) -> None:
    model.graph.input[0].type.ClearField("tensor_type")


def sparse(model: Any) -> None:
    model.graph.sparse_initializer.add()


def onnxruntimes_own(model: Any) -> None:
    model.producer_name = "ORTM"  # at the fifth byte: onnxruntime would read a flatbuffer from here on


def function(model: Any) -> None:
    model.functions.add(name="f", domain="mine")


def training(model: Any) -> None:
    model.training_info.add()


def twice(model: Any) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def made_twice(model: Any) -> None:
    model.graph.node[1].output[0] = "flat"


def output_from_nowhere(model: Any) -> None:
    model.graph.output[0].name = "nowhere"


def referenced(model: Any) -> None:
    model.graph.node[0].attribute.add(name="axis", ref_attr_name="outer", type=2)


def overload(model: Any) -> None:
    model.graph.node[0].overload = "mine"


def nothing_in_it(model: Any) -> None:
    del model.graph.node[:]


def endless_shape(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -5


def bomb(kind: str, size: tuple[int, ...]) -> Callable[[Path, Path], Path]:
    """The good graph behind an operator that makes something of ``size``."""

    def change(model: Any) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(size, np.int64), "size"))
        inputs = ["size"] if kind == "ConstantOfShape" else ["input", "size"]
        model.graph.node.insert(0, helper.make_node(kind, inputs, ["large"]))

    return changed(change)


def size_of_pixels(model: Any) -> None:
    model.graph.node.insert(0, helper.make_node("Cast", ["flat"], ["whole"], to=7))
    model.graph.node.insert(1, helper.make_node("ConstantOfShape", ["row"], ["large"]))
    model.graph.node.insert(1, helper.make_node("Squeeze", ["whole"], ["row"]))
    model.graph.node.insert(0, model.graph.node.pop(3))


NAN = np.full((12, 3), np.nan, np.float32).tobytes()
GRAPHS = [
    Row("second graph for onnxruntime", changed(onnxruntimes_own), 3, "a different graph"),
    Row("external data, absolute", external("/etc/passwd"), 3, "/etc/passwd"),
    Row("external data, ..", external("../../secret"), 3, "../../secret"),
    Row("external data, empty", external(""), 3, "another file"),
    Row("external data beside raw data", external("x.bin", data=False), 3, "another file"),
    Row("external data in an attribute", changed(attribute_external), 3, "another file"),
    Row("custom domain", add_node("Steal", ["input"], ["s"], domain="com.evil"), 3, "com.evil::Steal"),
    Row("custom operator", add_node("Steal", ["input"], ["s"]), 3, "Steal"),
    Row("overloaded operator", changed(overload), 3, "custom operator"),
    Row("branch", changed(branch), 3, "graph of its own"),
    Row("functions", changed(function), 3, "functions"),
    Row("training code", changed(training), 3, "training code"),
    Row("sparse tensors", changed(sparse), 3, "sparse"),
    Row("raw bytes too short", weight(raw_data=b"1234"), 3, "lies"),
    Row("two kinds of numbers", weight(float_data=[1.0]), 3, "lies"),
    Row("negative shape", weight(dims=[-1, 3]), 3, "negative"),
    Row("endless tensor", weight(dims=[1 << 31, 1 << 31]), 3, "too large"),
    Row("too many axes", weight(dims=[1] * 20), 3, "too large"),
    Row("attribute from outside", changed(referenced), 3, "unusual kind"),
    Row("endless attribute", add_node("Identity", ["input"], ["s"], far=[0] * 5000), 3, "unusual size"),
    Row("bomb of a few bytes", bomb("ConstantOfShape", (1 << 30,)), 3, "ConstantOfShape takes 4294967296 bytes"),
    Row("bomb of a pixel", bomb("Expand", (1 << 30, 3, 2, 2)), 3, "Expand takes"),
    Row("sizes from pixels", changed(size_of_pixels), 2, "depends on the pixels"),
    Row("text tensor", weight(data_type=8, raw_data=b"", string_data=[b"a"]), 2, "type"),
    Row("NaN in the graph", weight(raw_data=NAN), 2, "NaN"),
    Row("value from nowhere", add_node("Relu", ["nowhere"], ["s"]), 2, "nothing made"),
    Row("value made twice", changed(made_twice), 2, "appears twice"),
    Row("tensor named twice", changed(twice), 2, "appears twice"),
    Row("output from nowhere", changed(output_from_nowhere), 2, "No operator"),
    Row("two inputs", changed(second_input), 2, "2 inputs"),
    Row("input is no tensor", changed(not_a_tensor), 2, "not a tensor"),
    Row("input of negative size", changed(endless_shape), 2, "malformed"),
    Row("no operator set", changed(no_opset), 2, "operator set"),
    Row("no operators", changed(nothing_in_it), 2, "no operators"),
    Row("text as .onnx", constant(b"hello, I am not a graph", "bad.onnx"), 2, "ONNX"),
    Row("cut in half", file(lambda _: good().SerializeToString()[:60], "bad.onnx"), 2, "ONNX"),
]
