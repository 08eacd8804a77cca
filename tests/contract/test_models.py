"""Every network family, through the same checks."""

from __future__ import annotations

import copy
import re

import pytest
import torch

from edgekd import models
from edgekd.models.sites import TappedNet
from edgekd.types import InputSpec, ModelSpec

SLOW = pytest.mark.slow
# one small example at least of every family; the image size may differ from the usual one
EXAMPLES = [
    ("resnet8-w4", (3, 32, 32)),
    ("resnet8", (1, 28, 28)),
    ("distiller-resnet8", (3, 32, 32)),
    ("wrn-10-1", (3, 32, 32)),
    ("wrn-16-1-layers", (1, 28, 28)),
    ("wrn-10-2", (3, 24, 16)),
    ("smallvgg", (3, 32, 32)),
    ("stripnet", (1, 28, 28)),
    ("cnn3", (3, 32, 32)),
    ("convpool-cifar", (3, 32, 32)),
    ("convpool-mnist", (1, 28, 28)),
    ("badnet-cnn", (1, 28, 28)),
    ("preactresnet18", (3, 16, 16)),
    ("mobilenetv2", (3, 32, 32)),
    ("mobilenetv2-224", (3, 64, 64)),
    ("resnet18", (3, 16, 16)),
    ("resnet18-224", (3, 64, 64)),
    ("resnet50-224", (3, 64, 64)),
]
# large ones of which another example of the family shows the same by default
LARGE = {"mobilenetv2-224", "resnet18-224"}
# the large ones, and second ones of a family
EXPORT_SLOWLY = {"preactresnet18", "mobilenetv2", "mobilenetv2-224", "resnet18-224", "resnet50-224"}
EXPORT_SLOWLY |= {"resnet8", "wrn-10-2", "convpool-cifar", "convpool-mnist"}


def spec_of(name: str, shape: tuple[int, int, int]) -> ModelSpec:
    return ModelSpec(name, 7, InputSpec(*shape, (0.4,) * shape[0], (0.3,) * shape[0]))


@pytest.fixture(
    scope="module",
    params=[pytest.param(example, marks=[SLOW] if example[0] in LARGE else []) for example in EXAMPLES],
    ids=lambda example: f"{example[0]}-{example[1][0]}x{example[1][1]}",
)
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return spec_of(*request.param)


@pytest.fixture(scope="module")
def network(spec: ModelSpec) -> models.Network:
    """Fresh weights, norms moved away from identity so that a site before a norm differs from one behind it."""
    module = models.build(spec, seed=1).module
    generator = torch.Generator().manual_seed(2)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
            with torch.no_grad():
                part.weight.uniform_(0.5, 1.5, generator=generator)
                part.bias.normal_(0, 0.2, generator=generator)
    assert isinstance(module, models.Network)
    return module


@pytest.fixture(scope="module")
def images(spec: ModelSpec) -> torch.Tensor:
    return torch.rand(2, *spec.input.shape, generator=torch.Generator().manual_seed(3))


def test_every_family_has_an_example() -> None:
    shown = {models.resolve(name).family.module for name, _ in EXAMPLES}
    assert shown == {family.module for family in models.FAMILIES}


def test_every_listed_name_belongs_to_its_own_family() -> None:
    for family in models.FAMILIES:
        for name in family.names:
            assert models.resolve(name).family is family


def test_logits_have_one_row_per_image(network: models.Network, images: torch.Tensor, spec: ModelSpec) -> None:
    with torch.inference_mode():
        logits = network(images)
    assert logits.shape == (2, spec.num_classes)
    assert logits.isfinite().all()
    assert isinstance(network.net, TappedNet)


def test_sites_without_an_edit_are_the_forward_pass(network: models.Network, images: torch.Tensor) -> None:
    with torch.inference_mode():
        sites = network.sites(images)
        assert torch.equal(sites.logits, network(images))
    assert len(sites.raw) == len(sites.targets) == len(network.site_norms()) >= 2
    assert network.site_shapes(images) == tuple(raw.shape for raw in sites.raw)
    for raw, target in zip(sites.raw, sites.targets, strict=True):
        assert raw.dim() == 4
        assert raw.shape == target.shape
        assert (raw < 0).any(), "a post-ReLU site has no margin"
        assert (target < 0).any()
    sizes = [raw.shape[2] * raw.shape[3] for raw in sites.raw]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes), "one site for each resolution"


def test_targets_come_out_of_the_norms_that_are_named(network: models.Network, images: torch.Tensor) -> None:
    with torch.inference_mode():
        sites = network.sites(images)
        for raw, target, norm in zip(sites.raw, sites.targets, network.site_norms(), strict=True):
            if norm is None or torch.equal(raw, target):
                assert torch.equal(raw, target)
            else:
                assert torch.equal(norm(raw), target)


def test_edits_reach_everything_behind_them(network: models.Network, images: torch.Tensor) -> None:
    with torch.inference_mode():
        plain = network.sites(images)
        for level in range(len(plain.raw)):
            edited = network.sites(images, lambda at, raw, level=level: raw * 0 if at == level else raw)
            assert not torch.equal(edited.logits, plain.logits)
            assert not edited.raw[level].any()
            for before in range(level):
                assert torch.equal(edited.raw[before], plain.raw[before])
            for behind in range(level + 1, len(plain.raw)):
                assert not torch.equal(edited.targets[behind], plain.targets[behind])


def test_an_edit_cuts_the_network_in_two(network: models.Network, images: torch.Tensor) -> None:
    """Nothing goes round a site: with F' fixed, the logits no longer depend on the image."""
    with torch.inference_mode():
        for level, raw in enumerate(network.sites(images).raw):
            fixed = torch.randn(raw[:1].shape, generator=torch.Generator().manual_seed(4)).expand_as(raw)
            logits = network.sites(images, lambda at, f, level=level, fixed=fixed: fixed if at == level else f).logits
            assert torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def test_a_pass_through_the_sites_trains_like_the_forward_pass(network: models.Network, images: torch.Tensor) -> None:
    twins = [copy.deepcopy(network).train() for _ in range(2)]
    results = []
    for twin, run in zip(twins, (lambda net: net(images), lambda net: net.sites(images).logits), strict=True):
        torch.manual_seed(5)  # dropout
        run(twin).square().sum().backward()
        results.append([*twin.state_dict().values(), *(p.grad for p in twin.parameters())])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


def test_low_precision_and_channels_last(network: models.Network, images: torch.Tensor) -> None:
    with torch.inference_mode():
        expected = network(images)
        other = copy.deepcopy(network).to(memory_format=torch.channels_last)
        pixels = images.to(memory_format=torch.channels_last)
        assert other.normalize(pixels).is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(other(pixels), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
        with torch.autocast("cpu", torch.bfloat16):
            rough = other(pixels).float()
    assert (rough - expected).norm() < 0.1 * expected.norm()


def test_fresh_weights_follow_the_seed_and_nothing_else(spec: ModelSpec) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (models.build(spec, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.sha256 == again.sha256 != other.sha256
    assert not first.module.training


def test_weights_travel(network: models.Network, images: torch.Tensor, spec: ModelSpec) -> None:
    model = models.build(spec, network.net.state_dict())
    stored = models.weights(model)
    again = models.build(spec, stored)
    assert again.sha256 == model.sha256 == models.weights_sha256(stored)
    assert again.dropped == ()
    with torch.inference_mode():
        assert torch.equal(again.module(images), network(images))


def test_tensors_are_recognised(network: models.Network, spec: ModelSpec) -> None:
    found = models.infer_spec(network.net.state_dict(), input_shape=spec.input.shape)
    assert found.num_classes == spec.num_classes
    assert found.input.shape == spec.input.shape
    # one network under two names: only their authors' key names tell them apart
    same = {"convpool-mnist": "badnet-cnn", "wrn-16-1-layers": "wrn-16-1", "mobilenetv2-224": "mobilenetv2"}
    assert same.get(found.arch, found.arch) == same.get(spec.arch, spec.arch)


def test_cost_is_that_of_the_network(network: models.Network, spec: ModelSpec) -> None:
    own = models.cost(spec)
    assert own.parameters == sum(value.numel() for value in network.parameters())
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert own.macs >= sum(m.weight.numel() for m in convolutions)


def check_export(module: models.Network, pixels: torch.Tensor) -> None:
    program = torch.export.export(module, (pixels,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    in_place = [name for name in targets if re.search(r"\w_\.", name)]
    assert not in_place, f"operations in place: {in_place}"
    with torch.inference_mode():
        five = torch.rand(5, *pixels.shape[1:], generator=torch.Generator().manual_seed(6))
        assert torch.allclose(program.module()(five), module(five), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [pytest.param(*example, marks=[SLOW] if example[0] in EXPORT_SLOWLY else []) for example in EXAMPLES],
)
def test_export(name: str, shape: tuple[int, int, int]) -> None:
    module = models.build(spec_of(name, shape)).module
    assert isinstance(module, models.Network)
    check_export(module, torch.rand(2, *shape, generator=torch.Generator().manual_seed(3)))
