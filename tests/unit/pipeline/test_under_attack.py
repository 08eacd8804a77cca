"""Files under attack: which have a copy with gradients, and what is said of those that have none."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgekd import models
from edgekd.config import AuditSection
from edgekd.data import ImageSet
from edgekd.errors import UsageError
from edgekd.pipeline.adversarial import attack_network, straight_through
from edgekd.types import Checkpoint, Model

RANDOM = np.random.RandomState(0)
LABELS = np.arange(12, dtype=np.int64) % 3
IMAGES = ImageSet(RANDOM.randint(0, 256, (12, 1, 8, 8), dtype=np.uint8), LABELS, tuple("abc"), "made up")
SETTINGS = AuditSection(adversarial="smoke", eps=8 / 255)


def file(*nodes: onnx.NodeProto, batch: int | str = "N") -> Model:
    """A graph of 8 x 8 images to three outputs ``y`` behind the given nodes, which take ``flat`` or ``z``."""
    weight = RANDOM.normal(0, 1, (64, 3)).astype(np.float32)
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([1, 64]), "one")]
    first = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["z"])]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 8, 8])
    leaving = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])
    graph = helper.make_graph([*first, *nodes], "g", [entry], [leaving], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checkpoint = Checkpoint("made-up.onnx", "0" * 64, "onnx", onnx=proto.SerializeToString())
    return models.onnx_teacher(checkpoint, (1, 8, 8), 3)


def test_a_graph_that_ends_in_a_softmax_has_log_probabilities_in_both() -> None:
    model = file(helper.make_node("Softmax", ["z"], ["y"], axis=1))
    pixels = torch.from_numpy(IMAGES.images).float() / 255
    with torch.no_grad():
        assert torch.allclose(straight_through(model)(pixels), model.module(pixels), atol=1e-5)
    copy, own = attack_network(model, IMAGES, SETTINGS, name="file", seed=0)
    assert copy.table["name"] == "straight-through copy of file"
    assert own.table["robust"]["hits"] <= own.table["clean"]["hits"]


def test_without_a_copy_the_file_is_asked_and_the_reason_is_said() -> None:
    model = file(helper.make_node("Tanh", ["z"], ["y"]))
    with pytest.raises(UsageError, match="Tanh"):
        straight_through(model)
    (own,) = attack_network(model, IMAGES, SETTINGS, name="file", seed=0)
    assert [row["attack"] for row in own.table["attacks"]] == ["Square"]
    check = next(row for row in own.table["checks"] if row["check"] == "gradients are there")
    assert check["passed"] is False
    assert "The ONNX operator Tanh has no gradient here" in check["found"]


def test_a_graph_for_one_image_at_a_time_has_no_copy() -> None:
    nodes = helper.make_node("Reshape", ["flat", "one"], ["again"]), helper.make_node("MatMul", ["again", "w"], ["y"])
    with pytest.raises(UsageError, match="two images"):
        straight_through(file(*nodes, batch=1))


def test_a_network_comes_back_as_it_was() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)))
            self.still = nn.Parameter(torch.zeros(3), requires_grad=False)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1) @ self.weight.T + self.still

    model = dataclasses.replace(file(helper.make_node("Identity", ["z"], ["y"])), module=Flat())
    (own,) = attack_network(model, IMAGES, SETTINGS, name="network", seed=0)
    assert [row["attack"] for row in own.table["attacks"]] == ["FGSM", "PGD-10"]
    assert [parameter.requires_grad for parameter in model.module.parameters()] == [True, False]
