"""Rounding to integers and back, on numbers one can check by hand."""

import pytest
import torch

from edgekd.quantize.calibrators import SCALE_FLOORS
from edgekd.quantize.fake import ActivationQuantizer, WeightQuantizer


def test_symmetric_activations_by_hand():
    quantizer = ActivationQuantizer((-1.27, 1.27), symmetric=True)
    values = torch.tensor([0.0, 0.004, 0.006, 0.015, 0.025, -0.015, 1.27, 2.0, -1.28, -9.0])
    # halves go to the even neighbour: 1.5 -> 2, 2.5 -> 2
    expected = torch.tensor([0.0, 0.0, 0.01, 0.02, 0.02, -0.02, 1.27, 1.27, -1.28, -1.28])
    assert torch.allclose(quantizer(values), expected, atol=1e-6)


def test_asymmetric_activations_by_hand():
    quantizer = ActivationQuantizer((-1.0, 4.1), symmetric=False)
    assert int(quantizer.zero_point) == 50
    values = torch.tensor([-9.0, -1.0, 0.0, 0.019, 4.1, 9.0])
    assert torch.allclose(quantizer(values), torch.tensor([-1.0, -1.0, 0.0, 0.02, 4.1, 4.1]), atol=1e-6)


def test_gradients_pass_inside_the_range_only():
    quantizer = ActivationQuantizer((0.0, 2.55), symmetric=False)
    values = torch.tensor([-1.0, 0.5, 2.0, 3.0], requires_grad=True)
    quantizer(values).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_every_channel_of_a_weight_has_its_own_scale():
    weight = torch.tensor([[1.27, -0.5], [0.0127, 0.00994], [0.0, 0.0]]).reshape(3, 2, 1, 1)
    quantizer = WeightQuantizer(weight)
    assert torch.allclose(quantizer.scale, torch.tensor([0.01, 0.0001, SCALE_FLOORS["s8"]]))
    assert not quantizer.zero_point.any()
    expected = torch.tensor([[1.27, -0.5], [0.0127, 0.0099], [0.0, 0.0]]).reshape(3, 2, 1, 1)
    assert torch.allclose(quantizer(weight), expected, atol=1e-6)


def test_seven_bits_and_a_floor_of_the_scale():
    weight = torch.tensor([[0.63, -0.63], [0.63, 0.1]])
    quantizer = WeightQuantizer(weight, floor=torch.tensor([0.0, 0.5]), reduce_range=True)
    assert torch.allclose(quantizer.scale, torch.tensor([0.01, 0.5]))
    assert (quantizer(weight) / quantizer.scale[:, None]).abs().max() <= 63


def test_a_scale_of_one_value_is_held_exactly():
    """A depthwise 1x1 convolution made of a batch norm loses nothing by int8."""
    weight = torch.randn(50, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(WeightQuantizer(weight)(weight), weight, rtol=1e-6)


@pytest.mark.parametrize("quantizer", [ActivationQuantizer((0, 1), False), WeightQuantizer(torch.ones(2, 3))])
def test_switched_off_it_lets_everything_through(quantizer):
    quantizer.enabled = False
    values = torch.randn(2, 3)
    assert quantizer(values) is values
