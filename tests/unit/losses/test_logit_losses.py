"""Losses on logits against ten lines of numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.losses import soft_target_kl


def softmax(z):
    z = np.exp(z - z.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.integers(2, 11), st.floats(0.5, 20), st.integers(0, 999))
def test_kl_is_the_formula(batch, classes, temperature, seed):
    random = np.random.default_rng(seed)
    student, teacher = random.normal(0, 4, (2, batch, classes))
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(1).mean()
    got = soft_target_kl(torch.tensor(student), torch.tensor(teacher), temperature)
    assert got.dtype == torch.float32
    assert float(got) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_kl_of_equal_logits_is_zero():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert float(soft_target_kl(logits, logits, 4.0)) == pytest.approx(0, abs=1e-6)


def test_gradient_is_t_times_the_difference_of_probabilities():
    generator = torch.Generator().manual_seed(1)
    teacher = torch.randn(6, 5, generator=generator)
    student = torch.randn(6, 5, generator=generator).requires_grad_()
    soft_target_kl(student, teacher, 4.0).backward()
    expected = 4.0 * (torch.softmax(student / 4, 1) - torch.softmax(teacher / 4, 1)) / 6
    torch.testing.assert_close(student.grad, expected.detach())


def test_two_logits_by_hand():
    # T = 1: the teacher says 3/4 and 1/4, the student 1/2 each: KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812
    teacher, student = torch.tensor([[np.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert float(soft_target_kl(student, teacher, 1.0)) == pytest.approx(0.130812, abs=1e-6)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="not two"):
        soft_target_kl(torch.zeros(3, 4), torch.zeros(3, 1), 4.0)
    with pytest.raises(ValueError, match="not positive"):
        soft_target_kl(torch.zeros(3, 4), torch.zeros(3, 4), 0.0)
