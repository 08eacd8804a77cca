"""Learned step sizes: forward against torch's fake quantiser, gradients against the paper's cases by hand and in numpy."""

import numpy as np
import pytest
import torch

from edgekd.quantize.fake import ActivationQuantizer, WeightQuantizer
from edgekd.quantize.lsq import LearnedStep


def gradients(step: LearnedStep, values: torch.Tensor, incoming: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the values and of the scale, the latter without its factor 1 / sqrt(N Q_P)."""
    values = values.clone().requires_grad_()
    step(values).backward(incoming)
    assert step.scale.grad is not None
    assert values.grad is not None
    return values.grad, step.scale.grad * (values[0].numel() * step.levels) ** 0.5


def cases(levels: np.ndarray, q_n: float, q_p: float) -> np.ndarray:
    """Equation 3 of Esser et al. 2020."""
    return np.select([levels <= -q_n, levels >= q_p], [-q_n, q_p], np.rint(levels) - levels)


@pytest.mark.parametrize(
    ("value", "slope", "passes"),
    [
        (0.0, 0.0, 1.0),
        (1.15, -0.3, 1.0),  # v / s = 2.3 -> 2
        (1.35, 0.3, 1.0),  # 2.7 -> 3
        (-1.15, 0.3, 1.0),
        (63.5, 127.0, 0.0),  # exactly Q_P
        (90.0, 127.0, 0.0),
        (-64.0, -128.0, 0.0),  # exactly -Q_N
        (-90.0, -128.0, 0.0),
    ],
)
def test_the_three_cases_by_hand(value, slope, passes):
    step = LearnedStep(ActivationQuantizer((-63.5, 63.5), symmetric=True))
    assert float(step.scale.detach()) == 0.5
    of_value, of_scale = gradients(step, torch.tensor([[value]]), torch.tensor([[2.0]]))
    assert float(of_scale) == pytest.approx(2 * slope, abs=1e-4)
    assert float(of_value) == 2 * passes


def test_the_gradient_is_scaled_by_the_values_of_one_image():
    """g = 1 / sqrt(N Q_P), section 2.2: N = 3 values an image, Q_P = 127; two images are clipped above in every value."""
    step = LearnedStep(ActivationQuantizer((-127.0, 127.0), symmetric=True))
    step(torch.full((2, 3), 500.0)).sum().backward()
    assert float(step.scale.grad) == pytest.approx(6 * 127 / (3 * 127) ** 0.5)


def test_unsigned_integers_with_a_zero_point_against_numpy():
    """Q_N is the zero point, Q_P what is left of 255."""
    quantizer = ActivationQuantizer((-1.0, 4.1), symmetric=False)
    step, zero = LearnedStep(quantizer), int(quantizer.zero_point)
    random = np.random.default_rng(0)
    values, incoming = random.normal(1.5, 3, (4, 5)).astype(np.float32), random.normal(size=(4, 5)).astype(np.float32)
    levels = values / quantizer.scale.numpy()
    assert step.levels == 255 - zero
    of_values, of_scale = gradients(step, torch.from_numpy(values), torch.from_numpy(incoming))
    expected = (incoming * cases(levels, zero, 255 - zero)).sum()
    assert float(of_scale) == pytest.approx(float(expected), rel=1e-4)
    inside = (levels > -zero) & (levels < 255 - zero)
    assert 0 < inside.sum() < inside.size
    assert np.array_equal(of_values.numpy(), incoming * inside)


@pytest.mark.parametrize(("narrow", "least", "most"), [(False, -128, 127), (True, -63, 63)])
def test_every_channel_of_a_weight_learns_its_own_step_against_numpy(narrow, least, most):
    random = np.random.default_rng(1)
    weight, incoming = (random.normal(size=(3, 2, 3, 3)).astype(np.float32) for _ in range(2))
    quantizer = WeightQuantizer(torch.from_numpy(weight), reduce_range=narrow)
    quantizer.scale.mul_(0.7)  # some weights lie outside
    of_weight, of_scale = gradients(LearnedStep(quantizer), torch.from_numpy(weight), torch.from_numpy(incoming))
    levels = weight / quantizer.scale.numpy().reshape(3, 1, 1, 1)
    expected = (incoming * cases(levels, -least, most)).sum((1, 2, 3))
    assert np.allclose(of_scale.numpy(), expected, rtol=1e-4, atol=1e-4)
    outside = (levels <= least) | (levels >= most)
    assert outside.any()
    assert np.array_equal(of_weight.numpy() == 0, outside)


def test_beyond_the_range_the_gradient_is_the_true_one():
    """There the output is Q_P times s: a difference quotient sees the same."""
    step, values = LearnedStep(ActivationQuantizer((0.0, 2.55), symmetric=False)), torch.tensor([[3.0, -1.0, 9.0]])
    _, of_scale = gradients(step, values, torch.ones(1, 3))
    with torch.no_grad():
        before = step(values).sum()
        step.scale += 1e-3
        assert float((step(values).sum() - before) / 1e-3) == pytest.approx(float(of_scale), rel=1e-3) == 510


@pytest.mark.parametrize(
    "quantizer",
    [
        ActivationQuantizer((-1.3, 1.3), True),
        ActivationQuantizer((-0.4, 1.3), False),
        WeightQuantizer(torch.linspace(-2, 2, 40).reshape(4, 10)),
    ],
)
def test_forward_is_the_fake_quantisers_to_the_bit(quantizer):
    values = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(LearnedStep(quantizer)(values), quantizer(values))
