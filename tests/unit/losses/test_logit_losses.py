"""Losses on logits against ten lines of numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.losses import decoupled_kl, soft_target_kl


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
    # float32's rounding of a logarithm near 0 comes out T² times as large
    assert float(got) == pytest.approx(expected, rel=1e-4, abs=1e-5 + 2e-7 * temperature**2)


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


def some(batch=6, classes=5, scale=4.0, seed=0):
    return torch.randn(2, batch, classes, generator=torch.Generator().manual_seed(seed)) * scale


def test_the_decoupled_parts_are_the_formula():
    (student, teacher), labels = some(), torch.tensor([0, 4, 2, 2, 1, 3])
    p, q = softmax(teacher.double().numpy() / 3), softmax(student.double().numpy() / 3)
    got = [part.tolist() for part in decoupled_kl(student, teacher, labels, 3.0)]
    for row, label in enumerate(labels):
        (t, s), rest = (p[row], q[row]), np.arange(5) != int(label)
        two = [np.array([v[label], v[rest].sum()]) for v in (t, s)]
        others = [v[rest] / v[rest].sum() for v in (t, s)]
        expected = [9 * float((a * np.log(a / b)).sum()) for a, b in (two, others)]
        assert [part[row] for part in got] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_decoupled_parts_by_hand():
    # p_T = (1/2, 3/8, 1/8), p_S = 1/3 each, label 0: 1/2 ln(3/2) + 1/2 ln(3/4); then (3/4, 1/4) against 1/2 each.
    teacher, student = torch.tensor([[np.log(4.0), np.log(3.0), 0.0]]), torch.zeros(1, 3)
    target, others = decoupled_kl(student, teacher, torch.tensor([0]), 1.0)
    assert target.item() == pytest.approx(0.058892, abs=1e-6)
    assert others.item() == pytest.approx(0.130812, abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 11), st.floats(0.5, 20), st.integers(0, 999))
def test_hintons_loss_is_the_two_parts_together(classes, temperature, seed):
    student, teacher = some(7, classes, seed=seed)
    labels = torch.arange(7) % classes
    share = 1 - torch.softmax(teacher / temperature, 1).gather(1, labels[:, None])[:, 0]
    target, others = decoupled_kl(student, teacher, labels, temperature)
    whole = soft_target_kl(student, teacher, temperature)
    assert (target + share * others).mean().item() == pytest.approx(whole.item(), rel=1e-5, abs=1e-5)


def test_a_sure_teacher_still_teaches_how_the_others_compare():
    """Here 1 - p of the label is 0 in float32, and Hinton's loss sees nothing of the others."""
    teacher = torch.tensor([[2000.0, 3.0, 0.0]])
    student = torch.tensor([[2000.0, 0.0, 3.0]]).requires_grad_()
    target, others = decoupled_kl(student, teacher, torch.tensor([0]), 1.0)
    expected = np.tanh(1.5) * 3  # KL of (p, 1-p) against (1-p, p) at a log-odds of 3
    assert (target.item(), others.item()) == pytest.approx((0, expected), abs=1e-4)
    others.sum().backward()
    assert student.grad[0].tolist() == pytest.approx([0, -0.905148, 0.905148], abs=1e-5)


def test_two_classes_have_no_others_to_compare():
    student, teacher = some(classes=2)
    assert decoupled_kl(student, teacher, torch.zeros(6, dtype=torch.int64), 4.0)[1].abs().max() == 0
    with pytest.raises(ValueError, match="no others"):
        decoupled_kl(torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), 4.0)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="not two"):
        decoupled_kl(torch.zeros(3, 4), torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), 4.0)
    with pytest.raises(ValueError, match="not positive"):
        decoupled_kl(torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), -1.0)
    with pytest.raises(ValueError, match="not two"):
        soft_target_kl(torch.zeros(3, 4), torch.zeros(3, 1), 4.0)
    with pytest.raises(ValueError, match="not positive"):
        soft_target_kl(torch.zeros(3, 4), torch.zeros(3, 4), 0.0)
