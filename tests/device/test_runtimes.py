"""The runtimes: onnxruntime for real, and what it says of models that it must not or cannot open."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from bundles import graph
from onnx import TensorProto, helper, numpy_helper

from edgekd_device.errors import EnvironmentFault, UnsafeInput, UsageError, did_you_mean
from edgekd_device.runtime import base


def _model(nodes, initializers=(), inputs=1, kind=TensorProto.FLOAT, domains=()) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info(name, kind, [4]) for name in ("input", "second")[:inputs]],
        [helper.make_tensor_value_info("logits", kind, [4])],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def _external(location: str) -> bytes:
    weights = numpy_helper.from_array(np.ones(4, np.float32), "weights")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weights.external_data.add(key=key, value=value)
    return _model([helper.make_node("Add", ["input", "weights"], ["logits"])], [weights]).SerializeToString()


def test_onnxruntime_computes_the_graph():
    runner = base.make("onnxruntime")
    runner.open(graph(scale=2.0), 1)
    images = np.random.RandomState(0).rand(5, 3, 8, 8).astype(np.float32)
    assert runner.infer(images) == pytest.approx(2 * images.mean((2, 3)), abs=1e-5)
    runner.close()


def test_onnxruntime_takes_no_format_of_its_own_for_onnx():
    marked = onnx.load_model_from_string(graph(scale=2.0))
    marked.producer_name = "ORTM"
    data = marked.SerializeToString()
    assert data[4:8] == b"ORTM"
    runner = base.make("onnxruntime")
    runner.open(data, 1)
    images = np.random.RandomState(0).rand(5, 3, 8, 8).astype(np.float32)
    assert runner.infer(images) == pytest.approx(2 * images.mean((2, 3)), abs=1e-5)
    runner.close()


def test_null_computes_nothing():
    runner = base.make("null")
    runner.open(b"", 1)
    images = np.zeros((1, 3, 8, 8), np.float32)
    assert runner.infer(images) is images
    runner.close()


def test_external_data_is_refused_even_where_it_lies_beside_us(tmp_path, monkeypatch, capfd):
    np.ones(4, np.float32).tofile(tmp_path / "weights.bin")
    monkeypatch.chdir(tmp_path)
    for location in ("weights.bin", str(tmp_path / "weights.bin"), "../" + tmp_path.name + "/weights.bin"):
        with pytest.raises(UnsafeInput, match="in another file"):
            base.make("onnxruntime").open(_external(location), 1)
    assert capfd.readouterr() == ("", "")


def test_custom_operators_are_refused():
    model = _model([helper.make_node("Run", ["input"], ["logits"], domain="evil")], domains=["evil"])
    with pytest.raises(UnsafeInput, match="custom operator"):
        base.make("onnxruntime").open(model.SerializeToString(), 1)


def test_loops_and_branches_are_refused():
    """They may run without end, and nothing that edgekd exports holds one."""
    scalar = [helper.make_tensor_value_info("go", TensorProto.BOOL, [])]
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"])], "b", scalar, [])
    model = _model([helper.make_node("Loop", ["n", "go", "input"], ["logits"], body=body)])
    with pytest.raises(UnsafeInput, match="a loop or a branch"):
        base.make("onnxruntime").open(model.SerializeToString(), 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no model",
        graph()[:40],
        _model([helper.make_node("Add", ["input", "second"], ["logits"])], inputs=2).SerializeToString(),
        _model([helper.make_node("Neg", ["input"], ["logits"])], kind=TensorProto.DOUBLE).SerializeToString(),
    ],
)
def test_models_that_do_not_fit_are_a_users_error(data):
    with pytest.raises(UsageError):
        base.make("onnxruntime").open(data, 1)


def test_an_image_that_does_not_fit_is_one_message():
    runner = base.make("onnxruntime")
    runner.open(graph(), 1)
    with pytest.raises(UsageError, match="cannot run the model"):
        runner.infer(np.zeros((1, 5, 8, 8), np.float32))


def test_no_thread_at_all():
    with pytest.raises(UsageError, match="--threads"):
        base.make("onnxruntime").open(graph(), 0)


def test_the_nearest_name_is_found_whatever_its_case_and_dashes():
    known = ("Top-Left", "smoke")
    assert did_you_mean("top_lef", known) == " Did you mean 'Top-Left'?"
    assert did_you_mean(7, known) == did_you_mean("smoke", ()) == ""


def test_names():
    with pytest.raises(UsageError, match="Did you mean 'onnxruntime'"):
        base.make("onxruntime")
    with pytest.raises(UsageError, match="Choose one of: onnxruntime, tensorrt, null"):
        base.make("coral")


def test_onnxruntime_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EnvironmentFault, match="pip install onnxruntime"):
        base.make("onnxruntime")
