"""Correlations and soft ranks against numpy, and where they have no right to a number."""

import numpy as np
import pytest
import torch

from edgekd.losses import entropy_share, pearson, soft_rank, standardised


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ranks(rows):
    return rows.argsort(1).argsort(1) + 1.0


def distance(student, teacher):
    return 1 - pearson(student, teacher)


def test_pearson_is_numpys_in_every_row_alone():
    student, teacher = normal(6, 9), normal(6, 9, seed=1)
    wanted = [1 - np.corrcoef(s, t)[0, 1] for s, t in zip(student.numpy(), teacher.numpy(), strict=True)]
    found = distance(student, teacher)
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)
    alone = [distance(student[i : i + 1], teacher[i : i + 1]).item() for i in range(6)]
    assert found.tolist() == pytest.approx(alone, abs=1e-6)


def test_scale_and_shift_do_not_matter_and_the_sign_does():
    row = normal(4, 10)
    assert distance(3 * row + 7, row).tolist() == pytest.approx([0] * 4, abs=1e-5)
    assert distance(-0.2 * row + 7, row).tolist() == pytest.approx([2] * 4, abs=1e-5)
    probabilities = distance((3 * row).softmax(1), row.softmax(1))
    assert float(probabilities.min()) > 1e-3, "of probabilities it does not hold: scale is a temperature there"
    assert distance((row + 7).softmax(1), row.softmax(1)).tolist() == pytest.approx([0] * 4, abs=1e-5)


def test_of_standardised_rows_the_squared_distance_is_twice_pearsons():
    student, teacher = normal(5, 7), normal(5, 7, seed=1)
    squared = (standardised(student) - standardised(teacher)).square().mean(1)
    assert squared.tolist() == pytest.approx((2 * distance(student, teacher)).tolist(), abs=1e-5)


def test_no_gradient_reaches_the_teacher_and_shapes_are_held_against_each_other():
    student, teacher = normal(3, 5).requires_grad_(), normal(3, 5, seed=1).requires_grad_()
    distance(student, teacher).sum().backward()
    assert teacher.grad is None
    assert float(student.grad.abs().max()) > 0
    with pytest.raises(ValueError, match="not two"):
        distance(normal(3, 5), normal(3, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_constant_rows_have_a_finite_loss_and_gradient(dtype):
    logits = torch.full((2, 6), 3.0, dtype=dtype, requires_grad=True)
    same = standardised(logits)
    assert same.tolist() == [[0.0] * 6] * 2
    loss = distance(soft_rank(same, 0.1), normal(2, 6)) + distance(same.softmax(1), normal(2, 6))
    assert loss.tolist() == pytest.approx([2.0, 2.0])
    loss.sum().backward()
    assert logits.grad.tolist() == [[0.0] * 6] * 2


def test_cold_soft_ranks_are_ranks_and_warm_ones_the_values():
    rows = normal(8, 12)
    assert torch.allclose(soft_rank(rows, 1e-3).round(), ranks(rows))
    spearman = [
        1 - np.corrcoef(*pair)[0, 1] for pair in zip(ranks(rows[:4]).numpy(), ranks(rows[4:]).numpy(), strict=True)
    ]
    found = distance(soft_rank(rows[:4], 1e-4), soft_rank(rows[4:], 1e-4))
    assert found.tolist() == pytest.approx(spearman, abs=1e-3)
    assert distance(soft_rank(rows, 1e3), rows).tolist() == pytest.approx([0] * 8, abs=1e-3)
    with pytest.raises(ValueError, match="not positive"):
        soft_rank(rows, 0)


def test_the_gradient_of_ranks_is_there_at_a_tenth_and_gone_at_a_thousandth():
    rows = standardised(normal(4, 10))
    sizes = []
    for temperature in (0.1, 1e-4):
        leaf = rows.clone().requires_grad_()
        distance(soft_rank(leaf, temperature), normal(4, 10, seed=1)).sum().backward()
        sizes.append(float(leaf.grad.abs().max()))
    assert sizes[0] > 1e-2 > 1e-6 > sizes[1]


def test_entropy_is_a_share_of_the_most_there_can_be():
    logits = torch.tensor([[0.0, 0, 0, 0], [99.0, 0, 0, 0], [np.log(2), np.log(2), -99.0, -99.0]])
    assert entropy_share(logits).tolist() == pytest.approx([1.0, 0.0, 0.5], abs=1e-6)


def test_neither_shift_nor_scale_nor_precision_counts():
    a, b = normal(6, 5), normal(6, 5, seed=1)
    torch.testing.assert_close(pearson(3 * a + 7, 0.1 * b - 2), pearson(a, b))
    assert pearson(a.bfloat16(), b.bfloat16()).dtype == torch.float32
