"""A user's own network, and sites found in networks that bring none."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgekd import models
from edgekd.errors import UsageError
from edgekd.models.vision import load_torchvision
from edgekd.types import InputSpec, ModelSpec

RGB = InputSpec(3, 16, 16, (0.5,) * 3, (0.5,) * 3)
NUMBERS = itertools.count()

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=4, in_channels=3):
        super().__init__()
        self.one = nn.Conv2d(in_channels, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.two = nn.Conv2d(6, 8, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.act(self.one(x)), 2)
        x = torch.relu(self.two(x))
        return self.head(self.drop(x.mean((2, 3))))

def fixed():
    return Net()

def anything(**options):
    assert options == {"num_classes": 4}
    return Net(**options)

def broken(num_classes):
    raise RuntimeError("no such luck")

def wrong():
    return "a network"

def features(num_classes):
    return nn.Conv2d(3, num_classes, 3)

def silent(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, num_classes))

number = 3
"""


@pytest.fixture
def arch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A module of the user's in the current directory; its name is new every time."""
    name = f"my_networks_{next(NUMBERS)}"
    (tmp_path / f"{name}.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield lambda attribute: f"{name}:{attribute}"
    assert sys.path == before
    sys.modules.pop(name, None)


def spec_of(arch: str, inputs: InputSpec = RGB) -> ModelSpec:
    return ModelSpec(arch, 4, inputs)


@pytest.mark.parametrize("attribute", ["Net", "fixed", "anything"])
def test_arguments_by_signature(arch: Callable[[str], str], attribute: str) -> None:
    model = models.build(spec_of(arch(attribute)), seed=2)
    assert model.module(torch.rand(2, 3, 16, 16)).shape == (2, 4)
    assert model.sha256 == models.build(spec_of(arch(attribute)), seed=2).sha256
    assert models.cost(model.spec) == models.Cost(6 * 28 + 8 * 55 + 36, 256 * 27 * 6 + 64 * 54 * 8 + 32)


def test_channels_follow_the_images(arch: Callable[[str], str]) -> None:
    grey = InputSpec(1, 16, 16, (0.0,), (1.0,))
    assert models.build(spec_of(arch("Net"), grey)).module(torch.rand(2, 1, 16, 16)).shape == (2, 4)


def test_tensors_of_a_file(arch: Callable[[str], str]) -> None:
    stored = models.weights(models.build(spec_of(arch("Net")), seed=5))
    spec = models.infer_spec(stored, arch=arch("Net"), input_shape=(3, 16, 16))
    assert (spec.arch, spec.num_classes, spec.input.shape) == (arch("Net"), 4, (3, 16, 16))
    assert models.build(spec, stored).sha256 == models.weights_sha256(stored)
    del stored["one.bias"]
    with pytest.raises(UsageError, match=r"one\.bias is missing"):
        models.build(spec, stored)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("broken", r"broken\(num_classes=4\) failed: RuntimeError: no such luck"),
        ("wrong", r"must return a torch\.nn\.Module, not str"),
        ("features", r"must return logits \[B, 4\]; for one image it returned \[1, 4, 14, 14\]"),
        ("number", "no callable 'number'"),
        ("missing", "no callable 'missing'"),
    ],
)
def test_mistakes_are_one_message(arch: Callable[[str], str], attribute: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        models.build(spec_of(arch(attribute)))


def test_modules_that_cannot_be_imported(arch: Callable[[str], str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot import 'no_such_package'.*PYTHONPATH"):
        models.build(spec_of("no_such_package:Net"))
    (tmp_path / "broken_module_of_mine.py").write_text("1 / 0")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        models.build(spec_of("broken_module_of_mine:Net"))


def test_a_network_that_fails_on_the_images(arch: Callable[[str], str]) -> None:
    with pytest.raises(UsageError, match="fails on a 3x8x8 image"):
        models.build(spec_of(arch("silent"), InputSpec(3, 8, 8, RGB.mean, RGB.std)))


def test_sites_are_found_by_watching_activations(arch: Callable[[str], str]) -> None:
    network = models.build(spec_of(arch("Net")), seed=1).module
    assert isinstance(network, models.Network)
    images = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        sites = network.sites(images)
        assert torch.equal(sites.logits, network(images))
        first = network.net.get_submodule("one")(network.normalize(images))
        assert torch.equal(sites.raw[0], first), "recorded before the activation in place"
        assert [raw.shape[1:] for raw in sites.raw] == [(6, 16, 16), (8, 8, 8)]
        assert all((raw < 0).any() for raw in sites.raw)
        assert network.site_norms() == (None, None)
        for level in (0, 1):
            edited = network.sites(images, lambda at, raw, level=level: raw * 0 - 1 if at == level else raw)
            assert not torch.equal(edited.logits, sites.logits)
            assert (edited.raw[level] == -1).all()
        assert torch.allclose(edited.logits, network.net.get_submodule("head").bias.expand(2, -1))


def test_finding_sites_leaves_a_training_network_as_it_was(arch: Callable[[str], str]) -> None:
    network = models.build(spec_of(arch("Net"))).module.train()
    assert isinstance(network, models.Network)
    network.net.get_submodule("one").eval()
    assert [tuple(shape) for shape in network.site_shapes(torch.rand(5, 3, 16, 16))] == [(5, 6, 16, 16), (5, 8, 8, 8)]
    assert network.training
    assert not network.net.get_submodule("one").training


def test_a_network_without_activations_has_no_sites(arch: Callable[[str], str]) -> None:
    network = models.build(spec_of(arch("silent"))).module
    assert isinstance(network, models.Network)
    with pytest.raises(UsageError, match="kd, dkd, dist, scratch or finetune"):
        network.sites(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize("name", ["smallvgg", "stripnet", "cnn3", "resnet8", "distiller-resnet8", "resnet18"])
def test_found_sites_are_the_ones_a_family_declares(name: str) -> None:
    """The same tensors, found by watching a network that also says where its sites are."""
    from edgekd.models.found_sites import FoundSites

    network = models.build(ModelSpec(name, 10, RGB)).module
    assert isinstance(network, models.Network)
    images = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        declared = network.sites(images, lambda level, raw: raw + level)
        found = FoundSites(RGB.shape).sites(network.net, network.normalize(images), lambda level, raw: raw + level)
    assert len(declared.raw) == len(found.raw)
    assert all(torch.equal(first, second) for first, second in zip(declared.raw, found.raw, strict=True))
    assert torch.equal(declared.logits, found.logits)


class Moody(torch.nn.Module):
    """Calls its activation by keyword, and once more for bright images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.relu(input=x)
        if x.mean() > 0:
            y = torch.nn.functional.relu(y[:, :, ::2])
        return y.mean((2, 3))


def test_a_network_without_parameters_and_with_moods() -> None:
    network = models.Network(Moody(), InputSpec(3, 8, 8, (0.4,) * 3, (1.0,) * 3))
    bright = torch.rand(1, 3, 8, 8) + 0.4
    sites = network.sites(bright)
    assert [tuple(raw.shape[2:]) for raw in sites.raw] == [(8, 8), (4, 8)]
    assert torch.equal(sites.raw[0], network.normalize(bright))
    assert (network.sites(bright, lambda level, raw: raw * 0 + 2).logits == 2).all()
    with pytest.raises(UsageError, match="a different path"):
        network.sites(bright * 0)


class OwnSites(torch.nn.Module):
    """A user's network that brings its sites along."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sites(x).logits

    def sites(self, x: torch.Tensor, edit: models.Edit | None = None) -> models.Sites:
        raw = x if edit is None else edit(0, x)
        return models.Sites(self.head(raw.mean((2, 3))), (raw,), (raw,))

    def site_norms(self) -> models.Norms:
        return (None,)


def test_a_users_own_sites_are_taken() -> None:
    network = models.Network(OwnSites(), RGB)
    sites = network.sites(torch.ones(1, 3, 2, 2), lambda level, raw: raw * 0)
    assert torch.equal(sites.logits[0], network.net.get_submodule("head").bias)
    assert network.site_norms() == (None,)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_torchvision_agrees_with_our_networks(name: str) -> None:
    """Same tensors, same logits; and torchvision's callables are networks of the user's."""
    load_torchvision()
    inputs = InputSpec(3, 64, 64, (0.5,) * 3, (0.5,) * 3)
    theirs = models.build(ModelSpec(f"torchvision.models:{name}", 10, inputs), seed=3)
    ours_name = {"mobilenet_v2": "mobilenetv2-224"}.get(name, f"{name}-224")
    ours = models.build(ModelSpec(ours_name, 10, inputs), models.weights(theirs))
    assert ours.dropped == ()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(ours.module(images), theirs.module(images), rtol=1e-4, atol=1e-5)
    assert models.cost(ours.spec) == models.cost(theirs.spec)
