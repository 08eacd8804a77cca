"""DiSK's losses against figures worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from edgekd.losses import budget_excess, capped_cross_entropy, plausible, scaffolded_cross_entropy, soft_target_kl


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scaffolded(student, teacher, helper, labels, top_k, ours=4.0, theirs=4.0):
    return scaffolded_cross_entropy(
        student, teacher, helper, labels, top_k=top_k, student_temperature=ours, teacher_temperature=theirs
    )


def test_without_a_helper_and_a_mask_it_is_hinton_kd():
    student, teacher, labels = 2 * normal(8, 5), 2 * normal(8, 5, seed=1), torch.arange(8) % 5
    soft = F.softmax(teacher / 4, dim=1)
    entropy = 16 * -(soft * soft.log()).sum(1).mean()
    found = scaffolded(student, teacher, torch.zeros(8), labels, 5)
    assert float(found) == pytest.approx(float(soft_target_kl(student, teacher, 4.0) + entropy), rel=1e-6)


def test_the_formula_by_hand():
    # teacher (1/2, 1/4, 1/4), student uniform; the best class and the label 2 are kept, g = 1/3: both get 2/3.
    teacher, student = torch.tensor([[math.log(2), 0.0, 0.0]]), torch.zeros(1, 3)
    found = scaffolded(student, teacher, torch.tensor([1 / 3]), torch.tensor([2]), 1, 1.0, 1.0)
    assert float(found) == pytest.approx(-(0.5 + 0.25) * math.log(2 / 3))
    warm = scaffolded(student, teacher * 4, torch.zeros(1), torch.tensor([0]), 1, 3.5, 4.0)
    assert float(warm) == pytest.approx(3.5 * 4 * -0.5 * math.log(1 / 3))


def test_the_mask_holds_the_teachers_first_classes_and_the_label_once():
    kept = plausible(torch.tensor([[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0]]), torch.tensor([3, 0]), 2)
    assert kept.tolist() == [[1, 1, 0, 1], [1, 1, 0, 0]]
    assert plausible(torch.zeros(1, 3), torch.tensor([0]), 99).tolist() == [[1, 1, 1]]


def test_the_pull_on_a_class_is_scaled_by_its_share_of_what_it_was_lent():
    """d/ds_k is -t_k / (s_k + g): through the softmax the pull is s_k / (s_k + g) of what it was."""
    student, teacher, g = normal(1, 4).double(), torch.tensor([[0.0, -99.0, -99.0, -99.0]]), 0.3
    gradients = []
    for helper in (0.0, g):
        leaf = student.clone().requires_grad_()
        scaffolded(leaf, teacher, torch.tensor([helper]), torch.tensor([0]), 1, 1.0, 1.0).backward()
        gradients.append(leaf.grad)
    s = float(F.softmax(student, 1)[0, 0])
    assert (gradients[1] / gradients[0]).flatten().tolist() == pytest.approx([s / (s + g)] * 4, rel=1e-4)


def test_an_impossible_class_stays_finite_and_the_teacher_gets_no_gradient():
    student = torch.tensor([[500.0, -500.0]], requires_grad=True)
    teacher = torch.tensor([[-9.0, 9.0]], requires_grad=True)
    loss = scaffolded(student, teacher, torch.zeros(1), torch.tensor([1]), 1, 1.0, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-8), rel=1e-3)
    assert torch.isfinite(student.grad).all()
    assert teacher.grad is None


def test_the_charge_is_the_teachers_class_up_to_a_most():
    student, teacher = torch.tensor([[0.0, 0.0], [20.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert capped_cross_entropy(student, teacher, 5.0).tolist() == pytest.approx([math.log(2), 5.0])


def test_the_budget_is_per_misclassified_image_and_a_perfect_batch_is_finite():
    helper = torch.tensor([0.5, 1.0, 0.0], requires_grad=True)
    charge, wrong = torch.tensor([2.0, 1.0, 5.0]), torch.tensor([True, True, False])
    loss = budget_excess(helper, charge, wrong, 0.4)
    assert loss.item() == pytest.approx((0.5 * 2 + 1) / 2 - 0.4)
    loss.backward()
    assert helper.grad.tolist() == pytest.approx([1.0, 0.5, 2.5])
    assert float(budget_excess(helper.detach(), charge, wrong, 1.1)) == 0
    assert float(budget_excess(helper.detach(), charge, torch.zeros(3, dtype=torch.bool), 0.4)) == pytest.approx(1.6)
