"""The ONNX files themselves: parity with torch, what the runtime makes of them, bytes that depend on the network alone."""

import hashlib
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from edgekd.errors import EdgekdError, EnvironmentFault, UsageError
from edgekd.export.onnx import FLAVOURS, export
from edgekd.quantize import PtqConfig, ptq
from edgekd.runners.onnx import OnnxRunner
from edgekd.types import InputSpec, Model, ModelSpec, OnnxFile


@pytest.fixture(scope="module")
def files(lively, pictures, tmp_path_factory):
    """(arch, flavour) -> OnnxFile, each exported once."""
    folder, made, twins = tmp_path_factory.mktemp("onnx"), {}, {}

    def get(arch: str, flavour: str) -> OnnxFile:
        if (arch, flavour) not in made:
            quantizer = FLAVOURS[flavour].quantizer
            if (arch, quantizer) not in twins:
                model = lively(arch)
                twins[arch, quantizer] = ptq(model, pictures, PtqConfig(flavour=quantizer)) if quantizer else model
            path = folder / f"{arch}.{FLAVOURS[flavour].file}"
            made[arch, flavour] = export(twins[arch, quantizer], path, flavour, pictures.images)
        return made[arch, flavour]

    return get


def read(file: OnnxFile) -> onnx.ModelProto:
    with open(file.path, "rb") as stream:
        return onnx.ModelProto.FromString(stream.read())


def optimised(file: OnnxFile, folder) -> Counter:
    """What onnxruntime runs in the end: operator -> count."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(file.path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize(
    ("flavour", "difference", "agreement"),
    [("fp32", 1e-5, 1.0), ("fp16", 0.01, 0.97), ("s8", 0.06, 0.9), ("s8-fp16", 0.1, 0.9), ("u8s8", 0.06, 0.9)],
)
@pytest.mark.parametrize("arch", ["resnet8", "wrn-10-1"])
def test_parity_with_torch(arch, flavour, difference, agreement, files, lively, pictures):
    file = files(arch, flavour)
    with torch.no_grad():
        logits = lively(arch).module(torch.from_numpy(pictures.images).float() / 255)
    assert file.max_abs_logit_difference <= difference * float(logits.abs().max())
    assert file.top1_agreement.value >= agreement
    assert file.top1_agreement.total == len(pictures)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_record_says_what_the_file_is(flavour, files):
    file = files("resnet8", flavour)
    with open(file.path, "rb") as stream:
        data = stream.read()
    assert file.bytes == len(data)
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    proto = read(file)
    assert file.opset == proto.opset_import[0].version == FLAVOURS[flavour].opset
    assert file.nodes == dict(Counter(node.op_type for node in proto.graph.node))
    assert OnnxFile.from_json(file.to_json()) == file


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_interface_is_the_same_in_every_flavour(flavour, files):
    proto = read(files("resnet8", flavour))
    (source,), (result,) = proto.graph.input, proto.graph.output
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (source, result)]
    assert (source.name, result.name) == ("input", "logits")
    assert shapes == [["batch", 3, 32, 32], ["batch", 10]]
    assert source.type.tensor_type.elem_type == result.type.tensor_type.elem_type == TensorProto.FLOAT
    assert not proto.functions
    assert {node.domain for node in proto.graph.node} == {""}
    assert not any(t.external_data for t in proto.graph.initializer)
    assert not proto.producer_name
    assert not proto.doc_string
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert b"/site-packages" not in proto.SerializeToString()


def test_integers_make_the_file_small(files):
    whole = files("resnet8", "fp32").bytes
    assert files("resnet8", "fp16").bytes < 0.55 * whole
    assert files("resnet8", "s8").bytes < 0.36 * whole
    assert files("resnet8", "u8s8").bytes < 0.4 * whole


@pytest.mark.parametrize("flavour", ["s8", "s8-fp16"])
@pytest.mark.parametrize("arch", ["resnet8", "wrn-10-1"])
def test_what_tensorrt_asks_for(arch, flavour, files):
    """Zero points 0 of INT8, scales positive, weights per channel, inputs per tensor, no Q/DQ on any bias."""
    proto = read(files(arch, flavour))
    constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    users = Counter(name for node in proto.graph.node for name in node.input)
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale, zero_point = constants[node.input[1]], constants[node.input[2]]
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
            assert (scale > 0).all()
            assert scale.dtype == (np.float16 if flavour == "s8-fp16" else np.float32)
        if node.op_type in ("Conv", "Gemm"):
            source, weight = makers[node.input[0]], makers[node.input[1]]
            assert source.op_type == weight.op_type == "DequantizeLinear"
            assert constants[source.input[1]].ndim == 0
            stored = constants[weight.input[0]]
            assert stored.dtype == np.int8
            assert constants[weight.input[1]].shape == stored.shape[:1]
            assert all(name in constants for name in node.input[2:]), "a bias stays a float constant"
        if node.op_type in ("Relu", "BatchNormalization"):
            assert makers[node.input[0]].op_type != "DequantizeLinear" or node.op_type == "BatchNormalization"
        if node.op_type == "Add":
            kinds = sorted(makers[name].op_type for name in node.input)
            assert kinds == ["Conv", "DequantizeLinear"], "the main branch is not quantised, the shortcut is"
            main = next(name for name in node.input if makers[name].op_type == "Conv")
            assert users[main] == 1


def test_onnxruntime_runs_every_layer_on_integers(files, tmp_path):
    found = optimised(files("resnet8", "u8s8"), tmp_path)
    assert found["QLinearConv"] == 7
    assert found["QLinearAdd"] == 3
    assert found["QGemm"] == 1
    assert found["QLinearAveragePool"] + found["QLinearGlobalAveragePool"] == 1
    assert not {"Conv", "Gemm", "Add", "Relu", "AveragePool", "GlobalAveragePool"} & set(found)


def test_onnxruntime_runs_a_preactivation_network_on_integers_throughout(files, tmp_path):
    found = optimised(files("wrn-10-1", "u8s8"), tmp_path)
    assert found["QLinearConv"] == 9 + 4, "norms in front of layers run as integer depthwise convolutions"
    assert found["QuantizeLinear"] == 1
    assert not {"Conv", "Gemm", "Add", "Relu", "BatchNormalization", "DequantizeLinear"} & set(found)


def test_the_float_file_has_its_norms_folded(files):
    assert "BatchNormalization" not in files("resnet8", "fp32").nodes


def test_any_batch_size_runs(files, pictures):
    session = onnxruntime.InferenceSession(files("resnet8", "u8s8").path, providers=["CPUExecutionProvider"])
    pixels = pictures.images[:7].astype(np.float32) / 255
    together = session.run(None, {"input": pixels})[0]
    alone = np.concatenate([session.run(None, {"input": image[None]})[0] for image in pixels])
    assert together.shape == (7, 10)
    assert np.allclose(together, alone, atol=1e-5)


_EXPORT_ALL = """
from pathlib import Path
import numpy as np
from edgekd import models
from edgekd.data import ImageSet
from edgekd.export.onnx import FLAVOURS, export
from edgekd.quantize import PtqConfig, ptq
from edgekd.runners.onnx import OnnxRunner
from edgekd.types import InputSpec, ModelSpec

def export_all(out, images):
    model = models.build(ModelSpec("resnet8", 10, InputSpec(3, 32, 32, (0.5,) * 3, (0.25,) * 3)))
    given = ImageSet(images, np.zeros(len(images), np.int64), tuple("0123456789"), "made up")
    twins = {"": model}
    for flavour, row in FLAVOURS.items():
        if row.quantizer not in twins:
            twins[row.quantizer] = ptq(model, given, PtqConfig(flavour=row.quantizer))
        export(twins[row.quantizer], out / row.file, flavour, images[:8])
"""


@pytest.mark.slow  # test_kills holds the bytes of whole runs in two folders
def test_two_processes_in_two_folders_write_the_same_bytes(pictures, tmp_path):
    np.save(tmp_path / "images.npy", pictures.images)
    here, there = tmp_path / "here", tmp_path / "another folder"
    there.mkdir()
    scope: dict = {}
    exec(_EXPORT_ALL, scope)  # noqa: S102
    scope["export_all"](here, pictures.images)
    code = _EXPORT_ALL + "export_all(Path('.').resolve(), np.load('../images.npy'))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        cwd=there, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stdout, "the exporter is quiet"
    files = [{p.name: p.read_bytes() for p in folder.iterdir()} for folder in (here, there)]
    assert set(files[0]) == {row.file for row in FLAVOURS.values()}
    assert files[0] == files[1]
    assert not any(str(tmp_path).encode() in data for data in files[0].values())


@pytest.mark.parametrize(
    ("flavour", "quantizer", "message"),
    [
        ("fp32", "s8", "needs the float network; this model is quantised for 's8'"),
        ("u8s8", "", "needs the 'u8s8' twin that quantize.ptq makes; this model is not quantised"),
        ("s8", "u8s8", "needs the 's8' twin"),
        ("int4", "", "no ONNX flavour 'int4'; there are fp32"),
    ],
)
def test_flavour_and_model_must_belong_together(flavour, quantizer, message, lively, pictures, tmp_path):
    model = lively("resnet8")
    model.module.flavour = quantizer
    with pytest.raises(UsageError, match=message):
        export(model, tmp_path / "model.onnx", flavour, pictures.images)
    assert not list(tmp_path.iterdir())


class Head(nn.Module):
    """Pixels to ten numbers, with a hook to do something a file cannot hold."""

    def __init__(self, then) -> None:
        super().__init__()
        self.head, self.then = nn.Linear(12, 10), then

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.then(self.head(x.flatten(1)))


def own(then) -> Model:
    return Model(ModelSpec("test:own", 10, InputSpec(3, 2, 2, (0.0,) * 3, (1.0,) * 3)), Head(then).eval())


SMALL = np.random.default_rng(0).integers(0, 256, (4, 3, 2, 2), dtype=np.uint8)


def test_a_network_that_branches_on_values_is_refused_with_a_reason(tmp_path):
    with pytest.raises(UsageError, match=r"test:own cannot be exported.*must not branch"):
        export(own(lambda x: x if x.sum() > 0 else -x), tmp_path / "model.onnx", "fp32", SMALL)


def test_a_file_that_computes_something_else_is_not_written(tmp_path):
    class Fickle(Head):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x)
            return logits * 2 if torch.compiler.is_exporting() else logits

    model = Model(own(None).spec, Fickle(lambda x: x).eval())
    with pytest.raises(EdgekdError, match=r"does not compute what the network computes.*Nothing was written"):
        export(model, tmp_path / "model.onnx", "fp32", SMALL)
    assert not list(tmp_path.iterdir())


def test_activations_beyond_half_precision_are_reported(tmp_path):
    with pytest.raises(EdgekdError, match=r"reach .*e\+09, but FP16 ends at 65504"):
        export(own(lambda x: x * 60000 * 60000), tmp_path / "model.onnx", "fp16", SMALL)


def test_logits_that_are_not_finite_are_reported(tmp_path):
    with pytest.raises(EdgekdError, match="not finite"):
        export(own(lambda x: torch.log(x * 0)), tmp_path / "model.onnx", "fp32", SMALL)


def test_the_runtime_that_measures_keeps_float_biases(pictures, tmp_path):
    """At the products' scale of small weights an FP16 bias underflows; onnxruntime must not make integers of it."""
    random = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 30 * 30, 10)).eval()
    with torch.no_grad():
        net[0].weight.copy_(1e-4 * torch.randn(net[0].weight.shape, generator=random))
        net[0].bias.copy_(torch.rand(8, generator=random))
    model = Model(ModelSpec("test:own", 10, InputSpec(3, 32, 32, (0.0,) * 3, (1.0,) * 3)), net)
    twin = ptq(model, pictures, PtqConfig(flavour="s8", calibrator="max"))
    file = export(twin, tmp_path / "model.onnx", "s8-fp16", pictures.images)
    with torch.no_grad():
        expected = twin.module(torch.from_numpy(pictures.images).float() / 255).numpy()
    found = OnnxRunner((tmp_path / "model.onnx").read_bytes())(pictures.images)
    assert np.abs(found - expected).max() == pytest.approx(file.max_abs_logit_difference, rel=1e-3)
    assert file.max_abs_logit_difference < 0.05 * np.abs(expected).max()


def test_parity_needs_images(tmp_path):
    with pytest.raises(UsageError, match="Parity needs images"):
        export(own(lambda x: x), tmp_path / "model.onnx", "fp32", SMALL[:0])


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    monkeypatch.setenv("EDGEKD_FAULT", "onnx.before_rename:1:enospc")
    with pytest.raises(EnvironmentFault, match="unchanged"):
        export(own(lambda x: x), path, "fp32", SMALL)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
