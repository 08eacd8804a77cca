"""Losses of distillation without data against ten lines of numpy, or figures one can work out by hand."""

import numpy as np
import pytest
import torch

from edgekd.errors import EdgekdError
from edgekd.losses import (
    class_balance,
    disagreement,
    kl_each,
    log_distance,
    lower_tail,
    matched_pairs,
    statistics_distance,
    suspicious,
    vaccine_term,
)


def softmax(z):
    z = np.exp(z - z.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


def some(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_kl_of_every_image_is_the_formula():
    first, second = 3 * some(7, 5), 3 * some(7, 5, seed=1)
    p, q = softmax(first.double().numpy()), softmax(second.double().numpy())
    assert kl_each(first, second).numpy() == pytest.approx((p * np.log(p / q)).sum(1), rel=1e-4)
    with pytest.raises(ValueError, match="not two"):
        kl_each(first, second[:3])


def test_even_classes_are_the_lowest_balance():
    even = torch.eye(4) * 50
    assert float(class_balance(even)) == pytest.approx(-np.log(4), abs=1e-5)
    assert float(class_balance(even[:1].repeat(4, 1))) == pytest.approx(0, abs=1e-5)
    p = softmax(some(6, 3).double().numpy()).mean(0)
    assert float(class_balance(some(6, 3))) == pytest.approx((p * np.log(p)).sum(), rel=1e-5)


def test_statistics_distance_by_hand_and_zero_where_they_agree():
    feature = some(8, 3, 4, 4)
    rows = feature.double().numpy().transpose(1, 0, 2, 3).reshape(3, -1)
    own = (torch.tensor(rows.mean(1)).float(), torch.tensor(rows.var(1)).float())
    assert float(statistics_distance([feature], [own])) == pytest.approx(0, abs=1e-5)
    # means off by (3, 4, 0), variances by (0, 0, 2): 5 + 2, and the same again
    other = (own[0] + torch.tensor([3.0, 4.0, 0.0]), own[1] - torch.tensor([0.0, 0.0, 2.0]))
    assert float(statistics_distance([feature, feature], [other, other])) == pytest.approx(14, abs=1e-4)


def test_disagreement_counts_where_both_name_one_class():
    teacher = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    p, q = softmax(np.array([[2.0, 0.0]])), softmax(np.array([[1.0, 0.0]]))
    assert float(disagreement(student, teacher)) == pytest.approx((p * np.log(p / q)).sum() / 2, rel=1e-5)


def test_matched_pairs_of_three_rows_by_hand():
    queries = torch.eye(3)
    keys = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).requires_grad_()
    queries.requires_grad_()
    # similarities / 0.5: row 0 has (0, 0, 0) -> ln 3; row 1 (2, 2, 0) -> ln(2 + e^-2); row 2 (0, 0, 2) -> ln(1 + 2 e^-2)
    each = [np.log(3), np.log(2 + np.exp(-2)), np.log(1 + 2 * np.exp(-2))]
    found = matched_pairs(queries, keys, 2, 0.5)
    assert float(found.detach()) == pytest.approx(np.mean(each[:2]) + each[2], rel=1e-5)
    assert float(matched_pairs(queries.detach(), keys, 3, 0.5)) == pytest.approx(np.mean(each), rel=1e-5)
    found.backward()
    assert keys.grad is None
    assert float(queries.grad.abs().sum()) > 0


def test_the_vaccine_pushes_only_what_is_suspicious():
    teacher = torch.tensor([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0]]).requires_grad_()
    shuffled = torch.tensor([[1.0, 0.0], [0.0, 1.0], [30.0, 0.0]])
    assert suspicious(teacher, shuffled).tolist() == [True, False, True]
    each = kl_each(teacher, shuffled).detach()
    expected = -0.1 * (min(float(each[0]), 1.0) + min(float(each[2]), 1.0)) / 2
    term = vaccine_term(teacher, shuffled, 0.1, 1.0)
    assert float(term.detach()) == pytest.approx(expected, rel=1e-5)
    term.backward()
    assert float(teacher.grad[1].abs().sum()) == 0
    assert float(teacher.grad[0].abs().sum()) > 0
    assert float(each[2]) > 1
    assert float(teacher.grad[2].abs().sum()) == 0  # it is far enough
    assert float(vaccine_term(teacher.detach(), -teacher.detach(), 0.1, 1.0)) == 0  # none is


def test_the_log_distance_is_bounded_below():
    logits = some(4, 10)
    assert log_distance(logits, logits).tolist() == pytest.approx([-12] * 4)
    found = log_distance(logits, some(4, 10, seed=1))
    assert found.numpy() == pytest.approx(np.log10(kl_each(logits, some(4, 10, seed=1)).numpy() / 10), rel=1e-4)


def mixture(share, count=100_000):
    """Mostly N(0, 0.2), a share of N(-2, 0.2)."""
    random = np.random.default_rng(0)
    low = int(share * count)
    return torch.tensor(np.concatenate([random.normal(-2, 0.2, low), random.normal(0, 0.2, count - low)]))


@pytest.mark.parametrize("rule", ["mean", "mad"])
def test_a_gaussian_has_no_tail(rule):
    values = torch.tensor(np.random.default_rng(0).normal(0, 1, 100_000))
    assert lower_tail(values, rule, 3.0) == pytest.approx(0.00135, abs=0.0005)


def test_a_small_cloud_is_found_by_both_rules_and_a_large_one_hides_from_the_mean():
    assert lower_tail(mixture(0.05), "mean", 3.0) == pytest.approx(0.05, abs=0.003)
    assert lower_tail(mixture(0.05), "mad", 3.0) == pytest.approx(0.05, abs=0.004)
    assert lower_tail(mixture(0.15), "mean", 3.0) < 0.005
    assert lower_tail(mixture(0.15), "mad", 3.0) == pytest.approx(0.15, abs=0.004)
    with pytest.raises(EdgekdError, match=r"not finite.*abd.vaccine=false"):
        lower_tail(torch.tensor([float("nan"), 1.0]), "mad", 3.0)
