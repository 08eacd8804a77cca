"""What an ONNX graph takes to run: bombs are refused before anything is allocated, networks are not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import models
from edgekd.checkpoints import graph_plan, onnx_check, onnx_sizes, sandbox
from edgekd.checkpoints.onnx_sizes import Plan, plan
from edgekd.errors import UnsafeInput, UsageError
from edgekd.types import Checkpoint

IMAGE = (3, 8, 8)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """Names in one word each; ``-`` is an input left out."""
    return helper.make_node(kind, [name.strip("-") for name in inputs.split()], outputs.split(), **attributes)


def classifier(*extra: onnx.NodeProto, size: Any = IMAGE, opset: int = 18, **constants: Any) -> onnx.ModelProto:
    """Mean of the image, and the sum of ``bomb`` if one of the extra operators makes it."""
    nodes = [*extra, node("GlobalAveragePool", "x", "mean"), node("Flatten", "mean", "flat")]
    if any("bomb" in one.output for one in extra):
        nodes += [node("ReduceSum", "bomb", "sum", keepdims=0), node("Add", "flat sum", "logits")]
    else:
        nodes += [node("Identity", "flat", "logits")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["N", *size])], [value("logits", TensorProto.FLOAT, None)], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


HUGE = 1 << 30
ONES = np.ones((3, 3, 1, 1), np.float32)
BOMBS: dict[str, onnx.ModelProto] = {
    "a constant of a shape": classifier(node("ConstantOfShape", "far", "bomb"), far=[HUGE]),
    "a size that is multiplied": classifier(
        node("Shape", "x", "s"), node("Mul", "s k", "far"), node("ConstantOfShape", "far", "bomb"), k=[1, 1, 10**4, 10**4]
    ),
    "a size from an attribute": classifier(
        node("Constant", "", "far", value_ints=[HUGE]), node("ConstantOfShape", "far", "bomb")
    ),
    "expanded": classifier(node("Expand", "x far", "bomb"), far=[HUGE, 3, 8, 8]),
    "tiled": classifier(node("Tile", "x far", "bomb"), far=[1, 1, 10**4, 10**4]),
    "a range": classifier(
        node("Range", "zero far one", "bombs"), node("Cast", "bombs", "bomb", to=1), zero=0, far=HUGE, one=1
    ),
    "padded": classifier(node("Pad", "x far", "bomb"), far=[0, 0, 10**5, 10**5, 0, 0, 0, 0]),
    "padded by a convolution": classifier(node("Conv", "x w", "bomb", pads=[10**5] * 4), w=ONES),
    "resized": classifier(node("Resize", "x - far", "bomb"), far=np.array([1, 1, 1e4, 1e4], np.float32)),
    "gathered": classifier(node("Gather", "x far", "bomb"), far=np.zeros((10**6,), np.int64)),
    "an outer product": classifier(node("MatMul", "a b", "bomb"), a=np.ones((10**5, 1)), b=np.ones((1, 10**5))),
    "columns of a transposed convolution": classifier(
        node("Resize", "x - up", "y"),
        node("ConvTranspose", "y w", "bomb"),
        up=np.array([1, 1, 64, 64], np.float32),
        w=np.ones((3, 1, 300, 300), np.float32),
    ),
    "many constants": classifier(
        *(node("ConstantOfShape", "far", f"c{n}") for n in range(20)),
        node("Sum", " ".join(f"c{n}" for n in range(20)), "bomb"),
        far=[16 << 20],
    ),
    "constants that are folded": classifier(
        *(line for n in range(20) for line in (
            node("ConstantOfShape", "far", f"c{n}"), node("ReduceSum", f"c{n}", f"r{n}", keepdims=0)
        )),
        node("Sum", " ".join(f"r{n}" for n in range(20)), "bomb"),
        far=[60 << 20],
    ),
    "work": classifier(node("MaxPool", "x", "bomb", kernel_shape=[3000, 3000], pads=[2999] * 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_asks_for_much_is_refused(name: str) -> None:
    data = BOMBS[name].SerializeToString()
    assert len(data) < 10_000_000
    model, _ = onnx_check.read(data)
    with pytest.raises(UnsafeInput, match=r"its operator \w+ takes \d+ .* are allowed"):
        plan(model)


DEPENDENT = {
    "expanded": node("Expand", "point far", "bomb"),
    "reshaped": node("Reshape", "x far", "bomb"),
    "filled": node("ConstantOfShape", "far", "bomb"),
    "padded": node("Pad", "point eight", "bomb"),
    "strings": node("Constant", "", "bomb", value_strings=["a"]),
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_a_size_that_depends_on_the_pixels_is_refused(name: str) -> None:
    extra = [
        node("GlobalMaxPool", "x", "point"),
        node("Flatten", "point", "row"),
        node("Squeeze", "row zero", "three"),
        node("Cast", "three", "far", to=7),
        node("Concat", "far far minus", "eight", axis=0),
    ]
    with pytest.raises(UsageError, match="depends on the pixels"):
        plan(classifier(*extra, DEPENDENT[name], zero=[0], minus=[0, 0]))


def test_a_growth_with_the_square_of_the_batch_ends_the_batches() -> None:
    extra = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Mul", "n n", "nn"),
        node("Mul", "nn many", "far"),
        node("ConstantOfShape", "far", "bomb"),
    ]
    model = classifier(*extra, zero=[0], many=[1 << 20])
    assert plan(model) == Plan((4, 1), 0, 0)


def test_a_graph_that_mixes_images_runs_them_one_by_one() -> None:
    assert plan(classifier(node("Reshape", "x one", "row"), one=[1, 192])).batches == (1,)
    kept = classifier()
    kept.graph.node[-1].CopyFrom(node("Reshape", "flat one", "logits"))
    kept.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), "one"))
    assert plan(kept).batches == (1,)


def test_a_free_image_size_has_no_plan_before_it_is_known() -> None:
    model = classifier(size=(3, "H", "W"))
    assert plan(model) == Plan((), 0, 0)
    assert plan(model, IMAGE).batches == (64, 16, 4, 1)
    assert plan(model, (3, 4000, 4000)).batches == (4, 1)
    with pytest.raises(UsageError, match=r"input is \['\?', 3, '\?', '\?'\], but the images are \[1, 8, 8\]"):
        plan(model, (1, 8, 8))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert plan(model).batches == ()


def test_a_fixed_batch_is_the_only_one() -> None:
    model = classifier(node("Conv", "x w", "y"), w=ONES)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    assert plan(model) == Plan((5,), 9, 64 * 9)


def test_sizes_that_a_graph_computes_are_followed() -> None:
    """A flatten as exporters write it, from the shape; every operator that does not matter to it stays unknown."""
    extra = [
        node("Shape", "x", "s", start=0, end=-3),
        node("Size", "x", "all"),
        node("Constant", "", "minus", value=numpy_helper.from_array(np.array([-1]))),
        node("Concat", "s minus", "to", axis=0),
        node("Reshape", "x to", "bomb"),
        node("Div", "all zero", "nothing"),
        node("GroupNormalization", "x scale bias", "normed", num_groups=1),
    ]
    model = classifier(*extra, opset=21, zero=np.array(0), scale=np.ones(3, np.float32), bias=np.ones(3, np.float32))
    assert plan(model).batches == (64, 16, 4, 1)


def test_an_operator_that_does_not_fit_is_told() -> None:
    with pytest.raises(UsageError, match=r"operator MatMul does not fit what it is given \("):
        plan(classifier(node("MatMul", "x w", "y"), w=ONES[:, 0, :, 0]))
    with pytest.raises(UsageError, match=r"operator Reshape does not fit what it is given \(192 numbers"):
        plan(classifier(node("Reshape", "x w", "y"), w=[1, 191]))


def test_int8_weights_may_swell_to_floats() -> None:
    """A dequantised weight four times the file is no bomb, whatever its size."""
    weight = np.zeros((80 << 20, 1), np.int8)
    model = classifier(node("DequantizeLinear", "w step", "bomb"), w=weight, step=np.float32(1))
    assert onnx_sizes.TENSOR_BYTES < 4 * weight.size
    assert plan(model).batches[-1] == 1


def test_the_child_works_it_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = classifier(node("Conv", "x w", "y"), w=ONES).SerializeToString()
    found = graph_plan(data, "a.onnx", IMAGE)
    assert found == Plan((64, 16, 4, 1), 9, 64 * 9)
    monkeypatch.setattr(sandbox, "run", None)
    assert graph_plan(data, "a.onnx", IMAGE) is found


@pytest.mark.parametrize(
    "answer", [{}, {"parameters": 1, "macs": -1, "batches": []}, {"parameters": 1, "macs": 1, "batches": [1e9]}]
)
def test_an_answer_that_makes_no_sense_is_refused(answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "run", lambda *_, **__: (answer, b""))
    with pytest.raises(UnsafeInput, match="nonsense"):
        graph_plan(repr(answer).encode(), "a.onnx")


def test_no_run_takes_a_number_of_images_that_was_not_worked_out() -> None:
    """The graph adds its batch size to the logits."""
    import torch

    extra = [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Cast", "n", "bomb", to=1)]
    checkpoint = Checkpoint("a.onnx", "0" * 64, "onnx", onnx=classifier(*extra, zero=[0]).SerializeToString())
    net = models.onnx_teacher(checkpoint, IMAGE).module
    assert net(torch.zeros(87, *IMAGE))[:, 0].tolist() == [64.0] * 64 + [16.0] * 16 + [4.0] * 4 + [1.0] * 3


def test_a_bomb_is_no_teacher_and_costs_nothing() -> None:
    checkpoint = Checkpoint("a.onnx", "0" * 64, "onnx", onnx=BOMBS["a constant of a shape"].SerializeToString())
    for use in (models.onnx_teacher, models.onnx_cost):
        with pytest.raises(UnsafeInput, match=r"^a\.onnx: .*ConstantOfShape takes"):
            use(checkpoint, IMAGE)  # type: ignore[operator]


MISJUDGED = """
import numpy as np, onnx, sys
from edgekd import models
from edgekd.checkpoints.onnx_sizes import Plan
from edgekd.errors import UsageError
from edgekd.models import onnx_teacher
from edgekd.types import Checkpoint
onnx_teacher_module = sys.modules["edgekd.models.onnx_teacher"]
onnx_teacher_module.ARENA_BYTES = 1 << 20
onnx_teacher_module.graph_plan = lambda *_: Plan((1,), 0, 0)
checkpoint = Checkpoint("a.onnx", "0" * 64, "onnx", onnx=sys.stdin.buffer.read())
try:
    onnx_teacher(checkpoint, (3, 8, 8))
except UsageError as error:
    print(error)
"""


def test_what_the_plan_misjudges_ends_at_the_limit_of_the_session() -> None:
    extra = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Mul", "n many", "far"),
        node("ConstantOfShape", "far", "bomb"),
    ]
    data = classifier(*extra, zero=[0], many=[1 << 20]).SerializeToString()
    said = subprocess.run([sys.executable, "-c", MISJUDGED], input=data, capture_output=True, check=True, timeout=60)
    assert said.stdout.startswith(b"onnxruntime cannot run a.onnx on one image: ")


def test_limits_leave_room_between_a_network_and_a_bomb() -> None:
    """The largest value of VGG-16 at 224 x 224, the hungriest of the usual networks, for sixteen images."""
    assert 16 * 64 * 224 * 224 * 4 < onnx_sizes.TENSOR_BYTES
