"""The flat graph computes what the network computes, with batch norms gone; the network stays as it was."""

import pytest
import torch
from torch import nn

from edgekd.errors import UsageError
from edgekd.quantize.graph import BATCH_NORM, aten, capture, fold_batch_norms
from edgekd.types import InputSpec, Model, ModelSpec

IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def own(module: nn.Module) -> Model:
    return Model(ModelSpec("test:own", 10, InputSpec(3, 32, 32, (0.0,) * 3, (1.0,) * 3)), module.eval())


@pytest.mark.parametrize(
    ("arch", "as_layers"),
    [
        ("resnet8", False),
        ("wrn-10-1", False),
        ("wrn-10-1", True),
        ("smallvgg", True),
        ("stripnet", True),
        ("cnn3", False),
    ],
)
def test_folding_changes_nothing_but_the_last_digits(arch, as_layers, lively):
    model = lively(arch)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    captured = capture(model)
    left = fold_batch_norms(captured, as_layers=as_layers)
    with torch.no_grad():
        expected, found = model.module(IMAGES), captured(IMAGES)
    assert torch.allclose(expected, found, atol=1e-4 * float(expected.abs().max()))
    norms = captured.graph.find_nodes(op="call_function", target=BATCH_NORM)
    assert len(norms) == len(left)
    if as_layers or arch != "wrn-10-1":
        assert not left
    else:
        assert len(left) == 4
        assert all("bn1" in name for name in left)
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())


def test_the_fold_by_hand():
    """w' = w g / sqrt(v + e), b' = (b - m) g / sqrt(v + e) + beta, for one channel."""
    conv, norm = nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    nn.init.constant_(conv.weight, 2.0)
    nn.init.constant_(conv.bias, 5.0)
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    nn.init.constant_(norm.weight, 3.0)
    nn.init.constant_(norm.bias, 0.25)
    captured = capture(own(nn.Sequential(conv, norm)))
    assert fold_batch_norms(captured) == ()
    tensors = dict(captured.named_parameters())
    assert tensors["folded.conv2d.weight"].flatten().tolist() == [3.0, 3.0, 3.0]
    assert tensors["folded.conv2d.bias"].tolist() == [(5 - 1) * 3 / 2 + 0.25]


class Shared(nn.Module):
    """One convolution used twice, a different norm behind each use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False)
        self.second.running_mean.fill_(0.5)
        self.first.running_var.fill_(0.3)
        self.head = nn.Linear(3, 10)
        self.head_norm = nn.BatchNorm1d(10)
        self.head_norm.running_var.fill_(2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu_(self.first(self.conv(x)))
        x = nn.functional.dropout(self.second(self.conv(x)), training=self.training)
        return self.head_norm(self.head(x.mean((2, 3))))


def test_a_shared_weight_is_folded_once_per_use_and_linear_layers_are_folded_too():
    model = own(Shared())
    captured = capture(model)
    assert fold_batch_norms(captured) == ()
    with torch.no_grad():
        assert torch.allclose(model.module(IMAGES), captured(IMAGES), atol=1e-5)
    targets = {node.target for node in captured.graph.nodes}
    assert aten.dropout.default not in targets
    assert not any(str(target).endswith("_.default") for target in targets), "an in-place operator is left"


class Shuffle(nn.Module):
    """Channels of two groups change places: a view that needs the copy in front of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, groups=1), nn.Linear(4 * 30 * 30, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = x.view(x.shape[0], 2, 2, 30, 30).transpose(1, 2).contiguous().view(x.shape[0], 4, 30, 30)
        return self.head(x.view(x.shape[0], -1))


def test_views_survive_without_the_copies_in_front_of_them_and_in_any_memory_layout():
    model = own(Shuffle())
    captured = capture(model)
    with torch.no_grad():
        expected = model.module(IMAGES)
        assert torch.allclose(captured(IMAGES), expected, atol=1e-5)
        assert torch.allclose(captured(IMAGES.to(memory_format=torch.channels_last)), expected, atol=1e-5)


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, -1)[:, :10]


class TwoOutputs(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean((2, 3)), x.amax((2, 3))


@pytest.mark.parametrize(
    ("module", "message"),
    [(Branches(), "must not branch"), (FixedBatch(), "batch"), (TwoOutputs(), "returns 2 tensors")],
)
def test_networks_that_cannot_be_captured_are_refused_with_a_reason(module, message):
    with pytest.raises(UsageError, match=message):
        capture(own(module))
