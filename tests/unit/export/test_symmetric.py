"""Our own check of what TensorRT would refuse or misread; tests/trt holds NVIDIA's parser against the same files."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import files
from edgekd.errors import UsageError
from edgekd.export import bundle
from edgekd.export.symmetric import refuse_asymmetric
from edgekd.targets import TARGETS
from edgekd.types import InputSpec, ModelSpec, OnnxFile, ProbeSet, Rate


def pair(**changes) -> bytes:
    """Quantise and dequantise [N, 3], with one constant of it another."""
    constants = {"scale": np.float32(0.5), "zero": np.int8(0), **changes}
    names = [name for name, value in constants.items() if value is not None]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *names], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", *names], ["y"], "dequantise"),
    ]
    values = [numpy_helper.from_array(np.asarray(constants[name]), name) for name in names]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3])] for name in "xy"]
    graph = helper.make_graph(nodes, "pair", *ends, values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"zero": np.uint8(0)}, "type UINT8, not INT8"),
        ({"zero": np.int8(3)}, "zero point that is not 0"),
        ({"zero": np.int32(0)}, "bias in integers"),
        ({"zero": None}, "no constant scale and zero point"),
        ({"scale": np.float32(0)}, "not positive and finite"),
        ({"scale": np.float32("inf")}, "not positive and finite"),
        ({"scale": np.full(3, 0.5, np.float32), "zero": np.zeros(3, np.int8)}, "scale per channel for an activation"),
    ],
)
def test_what_tensorrt_misreads_is_refused_by_name(changes, why):
    with pytest.raises(UsageError, match=rf"m\.onnx cannot go to TensorRT: QuantizeLinear 'quantise' .*{why}"):
        refuse_asymmetric(pair(**changes), "m.onnx")


def test_symmetric_pairs_pass():
    refuse_asymmetric(pair(), "m.onnx")
    refuse_asymmetric(pair(scale=np.float16(0.5)), "m.onnx")


@pytest.mark.parametrize("name", ["model.u8s8.onnx", "model.qdq.onnx"])
def test_a_bundle_for_tensorrt_refuses_the_processors_file_under_any_name(name, pictures, tmp_path):
    spec = ModelSpec("resnet8-w4", 10, InputSpec(3, 32, 32, (0.5,) * 3, (0.25,) * 3))
    data = pair(zero=np.uint8(0))
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

    with pytest.raises(UsageError, match=f"{name} cannot go to TensorRT: .*takes model.qdq.onnx"):
        write(TARGETS["jetson"], "refused")
    assert not (tmp_path / "refused" / bundle.reader.MANIFEST).exists()
    if name == "model.u8s8.onnx":
        write(TARGETS["cpu"], "taken")
