"""The fake-quantised twin as a whole."""

import copy

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from pydantic import ValidationError

from edgekd.errors import UsageError
from edgekd.export.onnx import export
from edgekd.quantize import PtqConfig, QuantizedNetwork, guard, ptq, sensitivity
from edgekd.quantize.calibrators import BINS, CALIBRATORS, Histogram
from edgekd.quantize.fake import ActivationQuantizer, WeightQuantizer
from edgekd.quantize.observe import ranges
from edgekd.quantize.placement import Group


def pixels(images, count: int = 32) -> torch.Tensor:
    return torch.from_numpy(images.images[:count]).float() / 255


@pytest.mark.parametrize(
    ("arch", "flavour"),
    [("resnet8", "s8"), ("resnet8", "u8s8"), ("wrn-10-1", "u8s8"), ("smallvgg", "s8"), ("cnn3", "u8s8")],
)
def test_the_twin_stays_close_and_the_model_as_it_was(arch, flavour, lively, pictures):
    model = lively(arch)
    before = copy.deepcopy(model.module.state_dict())
    twin = ptq(model, pictures, PtqConfig(flavour=flavour))
    with torch.no_grad():
        exact, rounded = model.module(pixels(pictures)), twin.module(pixels(pictures))
    noise = float((exact - rounded).square().sum() / exact.square().sum())
    assert 0 < noise < 0.01, f"signal to noise {-10 * np.log10(noise):.1f} dB"
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())
    assert twin.spec == model.spec
    assert twin.sha256 == model.sha256
    assert not twin.module.training


def test_a_network_whose_signals_are_small_is_quantised_as_well(lively, pictures, tmp_path):
    """Each layer weakens its input 1024 times, as fresh deep networks do; on integers of u8s8 nothing else changes."""

    def weakened(share: float):
        model = lively("cnn3")
        layers = [part for part in model.module.modules() if isinstance(part, (torch.nn.Conv2d, torch.nn.Linear))]
        assert len(layers) == 5
        for depth, layer in enumerate(layers, 1):
            layer.weight.data.mul_(share)
            layer.bias.data.mul_(share**depth)
        return model

    images, config = pixels(pictures), PtqConfig(flavour="u8s8", calibrator="max")
    plain, weak = ptq(weakened(1.0), pictures, config), ptq(weakened(2.0**-10), pictures, config)
    with torch.no_grad():
        expected, found = plain.module(images), weak.module(images)
    assert torch.allclose(found * 2.0**50, expected, rtol=1e-5)
    export(weak, tmp_path / "weak.onnx", "u8s8", pictures.images[:32])
    (ran,) = InferenceSession(tmp_path / "weak.onnx").run(None, {"input": images.numpy()})
    assert np.square(ran * 2.0**50 - expected.numpy()).sum() < 0.01 * np.square(expected.numpy()).sum()


def test_the_same_images_give_the_same_scales(lively, pictures):
    first, again = (ptq(lively("resnet8"), pictures, PtqConfig()).module for _ in range(2))
    for (name, one), (_, other) in zip(first.named_buffers(), again.named_buffers(), strict=True):
        assert torch.equal(one, other), name


def test_s8_has_no_zero_points_and_u8s8_none_behind_a_relu(lively, pictures):
    def zero_points(flavour):
        network = ptq(lively("resnet8"), pictures, PtqConfig(flavour=flavour)).module.network
        found = {n: m for n, m in network.named_modules() if isinstance(m, ActivationQuantizer)}
        assert len(found) == (9 if flavour == "s8" else 12)
        return {name: int(module.zero_point) for name, module in found.items()}

    assert not any(zero_points("s8").values())
    behind_relu = {name: zero for name, zero in zero_points("u8s8").items() if "relu" in name}
    assert len(behind_relu) == 7
    assert not any(behind_relu.values())


def test_pixels_get_their_exact_range_whatever_the_images_show(lively, pictures):
    """(x - mean) / std of x in [0, 1]: the scale of the network's input does not hang on the calibration images."""
    model = lively("resnet8")
    network = ptq(model, pictures, PtqConfig(calibrator="percentile")).module.network
    mean, std = np.array(model.spec.input.mean), np.array(model.spec.input.std)
    low, high = (-mean / std).min(), ((1 - mean) / std).max()
    assert float(network.quantize_div.scale) == pytest.approx((high - low) / 255, rel=1e-5)


def test_gradients_reach_the_pixels_and_the_weights(lively, pictures):
    twin = ptq(lively("resnet8"), pictures, PtqConfig(flavour="s8")).module
    images = pixels(pictures, 4).requires_grad_()
    twin(images).square().sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is not None for name, p in twin.named_parameters() if "folded" in name)


def test_the_twin_can_be_copied_and_moved(lively, pictures):
    twin = ptq(lively("resnet8"), pictures, PtqConfig()).module
    other = copy.deepcopy(twin).to("cpu").train().eval()
    with torch.no_grad():
        assert torch.equal(other(pixels(pictures, 4)), twin(pixels(pictures, 4)))


def test_layers_kept_float_have_no_quantiser(lively, pictures):
    config = PtqConfig(quantize_last=False, keep_float=("net.conv1",))
    twin = ptq(lively("resnet8"), pictures, config).module
    assert isinstance(twin, QuantizedNetwork)
    assert "net.conv1" not in twin.layers
    assert "net.linear" not in twin.layers
    assert twin.float_layers == (
        "net.conv1: kept float on request",
        "net.linear: the last layer was kept float on request",
    )


def test_a_layer_that_is_not_there_is_refused(lively, pictures):
    with pytest.raises(UsageError, match=r"'conv9'.*net\.conv1"):
        ptq(lively("resnet8"), pictures, PtqConfig(keep_float=("conv9",)))


def test_images_of_another_size_are_refused(lively, tiny_images):
    with pytest.raises(UsageError, match=r"\(3, 16, 16\)"):
        ptq(lively("resnet8"), tiny_images, PtqConfig())


def test_random_calibration_data_is_refused(lively, pictures):
    noise = np.random.default_rng(0).integers(0, 256, pictures.images.shape, dtype=np.uint8)
    with pytest.raises(UsageError, match="Random calibration data is refused"):
        ptq(lively("resnet8"), type(pictures)(noise, pictures.labels, pictures.class_names, "noise"), PtqConfig())


def test_activations_that_are_not_finite_are_refused(lively, pictures):
    model = lively("resnet8")
    model.module.net.conv1.weight.data.fill_(float("inf"))
    with pytest.raises(UsageError, match="not finite"):
        ptq(model, pictures, PtqConfig(calibrator="max"))


def test_seven_bit_weights(lively, pictures):
    network = ptq(lively("resnet8"), pictures, PtqConfig(reduce_range=True)).module.network
    parameters = dict(network.named_parameters())
    for name, module in network.named_modules():
        if isinstance(module, WeightQuantizer) and "conv2d" in name:
            weight = parameters[f"folded.{name.removeprefix('quantize_weight_')}.weight"]
            assert (weight.flatten(1) / module.scale[:, None]).abs().max() < 63.01


def test_biases_fit_int32_whatever_the_weights(lively, pictures):
    """A dead channel with a bias: the weight's scale is raised until bias / (input scale * weight scale) fits."""
    model = lively("cnn3")
    model.module.net.conv2.weight.data[0] = 1e-12
    model.module.net.conv2.bias.data[0] = 50.0
    network = ptq(model, pictures, PtqConfig(flavour="u8s8")).module.network
    scale = (
        network.quantize_weight_conv2d_1.scale[0] * network.quantize_max_pool2d.scale
        if hasattr(network, "quantize_max_pool2d")
        else network.quantize_weight_conv2d_1.scale[0] * network.quantize_relu.scale
    )
    assert 50.0 / float(scale) < 2**31


@pytest.mark.parametrize("wrong", [{"flavour": "u4"}, {"calibrator": "best"}, {"images": 31}, {"calibration": 1}])
def test_a_wrong_configuration_is_refused(wrong):
    with pytest.raises(ValidationError):
        PtqConfig(**wrong)


def test_observed_ranges_against_plain_numpy(lively, pictures):
    """With calibrator "max" every group's range is what a run of the graph shows, zero included."""
    from edgekd.quantize.graph import capture, fold_batch_norms
    from edgekd.quantize.placement import place

    captured = capture(lively("resnet8"))
    fold_batch_norms(captured)
    plan = place(captured, "u8s8")
    found = ranges(captured, plan.groups, pictures.images, "max")
    seen: dict = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, node):
            value = super().run_node(node)
            if isinstance(value, torch.Tensor):
                seen[node] = value.numpy()
            return value

    with torch.no_grad():
        Recorder(captured).run(pixels(pictures, len(pictures)))
    for group, (low, high) in zip(plan.groups, found, strict=True):
        if not group.pixels:
            values = np.concatenate([seen[node].ravel() for node in group.nodes])
            assert (low, high) == (pytest.approx(min(values.min(), 0)), pytest.approx(max(values.max(), 0)))


@pytest.mark.parametrize(
    ("calibrator", "symmetric"), [("entropy", True), ("entropy", False), ("percentile", True), ("mse", True)]
)
@pytest.mark.parametrize("low", [-1.0, -0.6])
def test_magnitudes_are_counted_as_they_come(calibrator, symmetric, low):
    """A signed tensor, whose bins folded afterwards would be doubled, empty or a comb, and hold zeros beside zero."""
    values = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) / 4
    values = values.clamp(low, 1.0) * (torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) < 0.5)
    values.view(-1)[:2] = torch.tensor([low, 1.0])
    graph = torch.fx.Graph()
    graph.placeholder("images")
    shown = graph.get_attr("values")
    graph.output(shown)
    captured, groups = torch.fx.GraphModule({"values": values}, graph), [Group([shown], symmetric, [shown])]
    (found,) = ranges(captured, groups, np.zeros((1, 3, 32, 32), np.uint8), calibrator)
    counts, _ = np.histogram(values.abs().numpy().astype(np.float64), BINS, (0, 1))
    direct = Histogram(counts.astype(np.int64), low, 1.0, folded=True)
    assert found == pytest.approx(CALIBRATORS[calibrator](direct, symmetric), abs=1e-3)


def test_the_layer_that_hurts_most_comes_first(lively, pictures):
    model = lively("resnet8")
    twin = ptq(model, pictures, PtqConfig())
    twin.module.network.quantize_weight_conv2d_3.scale.mul_(30)
    order = sensitivity(twin, pictures, PtqConfig())
    assert order[0][0] == "net.layer2.0.conv1"
    assert len(order) == len(twin.module.layers) == 8
    assert order[0][1] < order[-1][1]
    with pytest.raises(UsageError, match="twin made by ptq"):
        sensitivity(model, pictures, PtqConfig())


def test_the_guard_gives_layers_back_until_accuracy_is_met(lively, pictures):
    model = lively("resnet8")

    def accuracy(module) -> float:
        """0.9 for the float network; a twin loses 0.01 per layer in INT8 beyond six of the eight."""
        return 0.9 if not hasattr(module, "layers") else 0.9 - 0.01 * max(len(module.layers) - 6, 0)

    def found(**limits: float) -> tuple[QuantizedNetwork, int]:
        made = guard(model, pictures, PtqConfig(calibrator="max", guard=limits), accuracy)
        return made.twin.module, made.untried

    met, untried = found(max_drop=0.005)
    assert (len(met.layers), untried) == (6, 0)
    assert all("accuracy guard" in line for line in met.float_layers)
    plain, untried = found(max_drop=0.05)
    assert (plain.float_layers, untried) == ((), 0)
    capped, untried = found(max_drop=0.005, most_float=1)
    assert (len(capped.layers), untried) == (7, 7)
