"""An ONNX graph as a teacher: its logits, and nothing else."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekd import models
from edgekd.errors import UsageError
from edgekd.models.onnx_teacher import OnnxNet
from edgekd.types import Checkpoint

RANDOM = np.random.RandomState(0)
KERNEL = RANDOM.randn(5, 3, 3, 3).astype(np.float32)
HEAD = RANDOM.randn(4, 5).astype(np.float32)


def graph(batch: int | str = "N", *, softmax: bool = False, second_input: bool = False) -> Checkpoint:
    """Convolution, ReLU, mean, linear layer."""
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "head"], ["logits"], transB=1),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])]
    if second_input:
        inputs.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]))
    output = helper.make_tensor_value_info("probabilities" if softmax else "logits", TensorProto.FLOAT, [batch, 4])
    weights = [numpy_helper.from_array(KERNEL, "kernel"), numpy_helper.from_array(HEAD, "head")]
    made = helper.make_graph(nodes, "teacher", inputs, [output], weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return Checkpoint("teacher.onnx", "0" * 64, "onnx", onnx=model.SerializeToString())


def expected(images: torch.Tensor) -> torch.Tensor:
    features = torch.nn.functional.conv2d(images, torch.from_numpy(KERNEL), padding=1).relu().mean((2, 3))
    return features @ torch.from_numpy(HEAD).T


@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_logits_for_any_batch(batch: int | str) -> None:
    images = torch.rand(7, 3, 8, 8)
    model = models.onnx_teacher(graph(batch), (3, 8, 8))
    assert (model.spec.arch, model.spec.num_classes) == ("onnx", 4)
    assert torch.allclose(model.module(images), expected(images), rtol=1e-4, atol=1e-5)
    assert torch.equal(copy.deepcopy(model.module)(images), model.module(images))


def test_a_softmax_is_taken_off() -> None:
    images = torch.rand(5, 3, 8, 8)
    logits = models.onnx_teacher(graph(softmax=True), (3, 8, 8)).module(images)
    difference = logits - expected(images)
    assert torch.allclose(difference, difference.mean(1, keepdim=True).expand_as(difference), atol=1e-4)


def test_normalisation_may_stand_before_it() -> None:
    images = torch.rand(5, 3, 8, 8)
    model = models.onnx_teacher(graph(), (3, 8, 8), normalize="half")
    assert torch.allclose(model.module(images), expected((images - 0.5) / 0.5), rtol=1e-4, atol=1e-5)


def test_no_sites() -> None:
    network = models.onnx_teacher(graph(), (3, 8, 8)).module
    assert isinstance(network, models.Network)
    with pytest.raises(UsageError, match="kd, dkd, dist, scratch or finetune"):
        network.sites(torch.rand(1, 3, 8, 8))


def test_cost_by_hand() -> None:
    wanted = models.Cost(5 * 27 + 20, 64 * 5 * 27 + 20)
    assert models.onnx_cost(graph()) == models.onnx_cost(graph(), (3, 8, 8)) == wanted
    free = onnx.load_model_from_string(graph().onnx)
    for axis, name in ((2, "H"), (3, "W")):
        free.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    written = onnx.shape_inference.infer_shapes(free)  # as exporters leave it: free sizes all the way down
    for model in (free, written):
        checkpoint = Checkpoint("teacher.onnx", "0" * 64, "onnx", onnx=model.SerializeToString())
        assert models.onnx_cost(checkpoint, (3, 8, 8)) == wanted


def test_onnxruntime_reads_the_graph_that_was_checked() -> None:
    """Of bytes that bear its own format's mark it would run another, which nobody looked at."""
    marked = onnx.load_model_from_string(graph().onnx)
    marked.producer_name = "ORTM"
    data = marked.SerializeToString()
    assert data[4:8] == b"ORTM"
    images = RANDOM.rand(2, 3, 8, 8).astype(np.float32)
    found = [OnnxNet(d, (1,)).session.run(None, {"x": images})[0] for d in (graph().onnx, data)]
    assert (found[0] == found[1]).all()


def test_graphs_that_are_no_teacher() -> None:
    with pytest.raises(UsageError, match=r"input is \['\?', 3, 8, 8\], but the images are \[3, 32, 32\].*--image-size"):
        models.onnx_teacher(graph(), (3, 32, 32))
    with pytest.raises(UsageError, match=r"has 2 inputs \(x, y\)"):
        models.onnx_teacher(graph(second_input=True), (3, 8, 8))
    with pytest.raises(UsageError, match=r"returns \[1, 4\] for one image, expected logits \[1, 10\]"):
        models.onnx_teacher(graph(), (3, 8, 8), 10)


def test_training_and_distillation_load_no_onnx() -> None:
    code = "import sys, edgekd.models, edgekd.distill; print([name for name in sys.modules if name.startswith('onnx')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
