"""A bundle for TensorRT holds nothing that TensorRT would refuse or misread; test_graph_facts.py has every such thing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import files
from edgekd.errors import UsageError
from edgekd.export import bundle
from edgekd.targets import TARGETS
from edgekd.types import InputSpec, ModelSpec, OnnxFile, ProbeSet, Rate


def pair(zero: np.generic, step: float = 0.5) -> bytes:
    """Quantise and dequantise [N, 3]."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["y"], "dequantise"),
    ]
    values = [numpy_helper.from_array(np.asarray(v), n) for n, v in {"step": np.float32(step), "zero": zero}.items()]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3])] for name in "xy"]
    graph = helper.make_graph(nodes, "pair", *ends, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("model.u8s8.onnx", pair(np.uint8(0)), "has UINT8 zero points.* Give it model.qdq.onnx"),
        ("model.qdq.onnx", pair(np.uint8(0)), "has UINT8 zero points.* Give it model.qdq.onnx"),
        ("model.qdq.onnx", pair(np.int8(0), step=0.0), "has a scale that is not positive and finite"),
    ],
)
def test_a_bundle_for_tensorrt_refuses_what_is_not_for_it_under_any_name(name, data, why, pictures, tmp_path):
    spec = ModelSpec("resnet8-w4", 10, InputSpec(3, 32, 32, (0.5,) * 3, (0.25,) * 3))
    (tmp_path / name).write_bytes(data)
    made = OnnxFile(str(tmp_path / name), "u8s8", files.sha256_bytes(data), len(data), 18, 0.0, Rate(1, 1))
    probes = ProbeSet(pictures.images, pictures.labels, (), pictures.sha256)

    def write(target, out):
        return bundle.write(
            tmp_path / out,
            target=dataclasses.replace(target, ships=name, files=(name,)),
            spec=spec,
            class_names=pictures.class_names,
            onnx=[made],
            probes=probes,
            floors={},
            teacher_sha256="a" * 64,
            student_sha256="b" * 64,
            references={},
        )

    with pytest.raises(UsageError, match=f"^{name}: .*QuantizeLinear 'quantise' {why}"):
        write(TARGETS["jetson"], "refused")
    assert not (tmp_path / "refused" / bundle.reader.MANIFEST).exists()
    if name == "model.u8s8.onnx":
        write(TARGETS["cpu"], "taken")
