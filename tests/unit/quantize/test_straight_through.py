"""ONNX graphs with gradients: what the file answers, and the gradients of the fake-quantised twin that it was made from."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import UsageError
from edgekd.export.onnx import export
from edgekd.quantize import PtqConfig, ptq
from edgekd.quantize.straight_through import StraightThrough
from edgekd.runners.onnx import OnnxRunner


def slopes(network, images):
    images = images.clone().requires_grad_(True)
    logits = network(images)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), images)
    return logits.detach(), gradient


@pytest.mark.parametrize(("arch", "flavour"), [("wrn-10-1", "s8"), ("resnet8-w4", "u8s8")])
def test_the_copy_computes_what_the_file_computes(arch, flavour, lively, pictures, tmp_path):
    model = lively(arch)
    twin = ptq(model, pictures, PtqConfig(flavour=flavour, calibrator="max", images=64))
    export(twin, tmp_path / "a.onnx", flavour, pictures.images[:8])
    data = (tmp_path / "a.onnx").read_bytes()
    images = torch.from_numpy(pictures.images[:16]).float() / 255
    logits, gradient = slopes(StraightThrough(data), images)
    answers = torch.from_numpy(OnnxRunner(data)(pictures.images[:16]))
    exact = flavour == "s8"  # elsewhere a rounding falls to the other side now and then
    assert float((logits - answers).abs().max()) < (1e-2 if exact else 0.1) * float(answers.abs().max())
    _, expected = slopes(twin.module, images)
    likeness = torch.cosine_similarity(gradient.flatten(1), expected.flatten(1))
    assert float(likeness.min()) > (0.999 if exact else 0.7)


def graph(nodes, constants, shape=("N", 1, 4, 4)):
    """The bytes of a graph from x to its last node's output."""
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    leaving = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "g", [entry], [leaving], tensors)).SerializeToString()


def run(data, images):
    return StraightThrough(data)(images)


def node(kind, *names, out="y", **attributes):
    return helper.make_node(kind, list(names), [out], **attributes)


def test_gradients_pass_inside_the_range_and_stop_outside():
    """uint8 levels of 0.5 with zero point 10: -5 to 122.5."""
    nodes = [node("QuantizeLinear", "x", "s", "z", out="q"), node("DequantizeLinear", "q", "s", "z")]
    data = graph(nodes, {"s": np.float32(0.5), "z": np.uint8(10)}, ("N", 4))
    images = torch.tensor([[-6.0, -5.0, 0.3, 200.0]])
    logits, _ = slopes(lambda x: run(data, x), images)
    assert logits.tolist() == [[-5.0, -5.0, 0.5, 122.5]]
    images.requires_grad_(True)
    run(data, images).sum().backward()
    assert images.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_without_a_zero_point_levels_are_uint8_and_axes_have_scales_of_their_own():
    data = graph([node("QuantizeLinear", "x", "s")], {"s": np.float32(1.0)}, ("N", 2))
    assert run(data, torch.tensor([[-3.0, 300.0]])).tolist() == [[0.0, 255.0]]
    weights = np.array([[1, 2], [3, 4]], np.int8)
    scales, zeros = np.array([1.0, 10.0], np.float32), np.zeros(2, np.int8)
    nodes = [node("DequantizeLinear", "w", "s", "z", out="d", axis=0), node("MatMul", "x", "d")]
    data = graph(nodes, {"w": weights, "s": scales, "z": zeros}, ("N", 2))
    assert run(data, torch.tensor([[1.0, 1.0]])).tolist() == [[31.0, 42.0]]


IMAGES = torch.arange(16.0).view(1, 1, 4, 4)
ONE = np.ones((1, 1, 3, 3), np.float32)
FORMS = {
    "conv": ([node("Conv", "x", "w", pads=[0, 1, 2, 1], strides=[2, 1])], {"w": ONE}),
    "maxpool": ([node("MaxPool", "x", kernel_shape=[3, 3], pads=[1, 1, 0, 0], strides=[2, 2])], {}),
    "averagepool": ([node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {}),
    "averagepool, pads": (
        [node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)],
        {},
    ),
    "pad": ([node("Pad", "x", "p", "v")], {"p": np.array([0, 0, 1, 0, 0, 2, 0, 1]), "v": np.float32(7)}),
    "pad, axes": ([node("Pad", "x", "p", "", "a")], {"p": np.array([1, 2]), "a": np.array([-1])}),
    "mean": ([node("ReduceMean", "x", "a", keepdims=0)], {"a": np.array([2, 3])}),
    "mean of all": ([node("ReduceMean", "x")], {}),
    "reshape": ([node("Reshape", "x", "s")], {"s": np.array([0, -1])}),
    "reshape, allowzero": ([node("Reshape", "x", "s", allowzero=1)], {"s": np.array([-1, 16])}),
    "gemm": (
        [
            node("Flatten", "x", out="f"),
            node("Gemm", "f", "w", "b", transB=1, alpha=0.5, beta=2.0),
        ],
        {"w": np.eye(3, 16, dtype=np.float32), "b": np.ones(3, np.float32)},
    ),
    "norm": (
        [node("BatchNormalization", "x", "s", "b", "m", "v", epsilon=0.0)],
        {k: np.array([v], np.float32) for k, v in {"s": 2, "b": 1, "m": 3, "v": 4}.items()},
    ),
    "clip": ([node("Clip", "x", "", "h")], {"h": np.float32(6)}),
    "clip below": ([node("Clip", "x", "l")], {"l": np.float32(6)}),
    "concat": ([node("Concat", "x", "x", axis=1)], {}),
    "softmax": ([node("Softmax", "x", axis=-1)], {}),
    **{
        kind.lower(): ([node("Sub", "x", "c", out="m"), node(kind, "m")], {"c": np.float32(7.5)})
        for kind in ("Relu", "Elu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Identity")
    },
    "arithmetic": (
        [node("Add", "x", "c", out="a"), node("Mul", "a", "c", out="m"), node("Div", "m", "d")],
        {"c": np.float32(3), "d": np.float32(7)},
    ),
    "global": ([node("GlobalAveragePool", "x")], {}),
    "cast": ([node("Cast", "x", to=TensorProto.FLOAT)], {}),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_operator_is_that_of_the_reference(name):
    """Against the ONNX project's own evaluator."""
    from onnx.reference import ReferenceEvaluator

    data = graph(*FORMS[name])
    (expected,) = ReferenceEvaluator(onnx.load_model_from_string(data)).run(None, {"x": IMAGES.numpy()})
    found = run(data, IMAGES)
    assert found.shape == expected.shape
    assert np.allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "word"),
    [
        ([node("LSTM", "x", "w", "r")], "LSTM has no gradient"),
        ([node("Conv", "x", "w", auto_pad="SAME_UPPER")], "auto_pad"),
        ([node("AveragePool", "x", kernel_shape=[2, 2], ceil_mode=1)], "ceil_mode"),
        ([node("Pad", "x", "w", mode="reflect")], "constant"),
    ],
)
def test_what_it_does_not_know_is_said(nodes, word):
    with pytest.raises(UsageError, match=word):
        run(graph(nodes, {"w": ONE, "r": ONE}), IMAGES)
