"""Feature losses against numpy, Monte Carlo and figures worked by hand."""

import math

import numpy as np
import pytest
import torch

from edgekd.losses import (
    attention_distance,
    feature_variance,
    gaussian_margin,
    hierarchical_context,
    margin_relu,
    partial_l2,
    selectivity_distance,
    similarity_distance,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("gamma", "beta"), [(1.0, 0.0), (0.5, -1.0), (-0.7, 0.4), (2.0, 1.5), (0.1, -0.3)])
def test_a5_margin_is_the_mean_of_what_is_below_zero(gamma, beta):
    draws = np.random.default_rng(0).normal(beta, abs(gamma), 1_000_000)
    expected = draws[draws < 0].mean()
    got = float(gaussian_margin(torch.tensor([gamma]), torch.tensor([beta])))
    assert got == pytest.approx(expected, rel=0.01)


def test_a5_margin_falls_back_where_negatives_are_rare():
    # P(z < 0) = 0.001 at beta / gamma = 3.0902: just before it the mean, just after it three deviations.
    gamma, beta = torch.tensor([2.0, 2.0, 1.0]), torch.tensor([2 * 3.09, 2 * 3.0903, 50.0])
    common, rare, never = gaussian_margin(gamma, beta).tolist()
    assert -2.0 < common < 0
    assert rare == pytest.approx(-6.0)
    assert never == pytest.approx(-3.0)


def test_margins_by_hand():
    # beta = 0: -sqrt(2 / pi). No spread: the shift itself where it is negative, else 0.
    got = gaussian_margin(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, -2.0, 2.0]))
    assert got.tolist() == pytest.approx([-math.sqrt(2 / math.pi), -2.0, 0.0], abs=1e-6)
    assert (gaussian_margin(normal(50), normal(50, seed=1)) < 0).all()


def test_margin_relu_cuts_each_channel_at_its_own_margin():
    feature = torch.tensor([[[[-3.0, 1.0]], [[-0.2, -0.6]]]])
    cut = margin_relu(feature, torch.tensor([-1.0, -0.5]))
    assert cut.flatten().tolist() == pytest.approx([-1.0, 1.0, -0.2, -0.5])
    assert margin_relu(torch.tensor([[-3.0, 2.0]]), torch.tensor([-1.0, -1.0])).tolist() == [[-1.0, 2.0]]


def test_a6_partial_l2_is_zero_below_a_negative_target_and_quadratic_elsewhere():
    target = torch.tensor([-1.0, -1.0, -1.0, 0.0, 0.0, 2.0, 2.0])
    student = torch.tensor([-3.0, -1.0, 0.5, -4.0, 1.0, -1.0, 3.0], requires_grad=True)
    loss = partial_l2(target, student)
    loss.backward()
    assert loss.item() == pytest.approx(1.5**2 + 1 + 9 + 1)
    assert student.grad.tolist() == pytest.approx([0, 0, 3, 0, 2, -6, 2])


def test_partial_l2_is_the_formula():
    q, s = normal(4, 3, 5, 5), normal(4, 3, 5, 5, seed=1)
    expected = np.where((s <= q) & (q <= 0), 0, (q - s) ** 2).sum()
    assert float(partial_l2(q, s)) == pytest.approx(float(expected), rel=1e-5)


def test_partial_l2_leaves_the_target_alone_and_refuses_to_broadcast():
    target = normal(2, 3).requires_grad_()
    student = normal(2, 3, seed=1).requires_grad_()
    partial_l2(target, student).backward()
    assert target.grad is None
    with pytest.raises(ValueError, match="different shapes"):
        partial_l2(normal(2, 3, 4, 4), normal(2, 1, 4, 4))


def test_partial_l2_of_half_precision_is_summed_in_float32():
    student = torch.full((100, 100), 1.0, dtype=torch.bfloat16)
    assert float(partial_l2(torch.zeros(100, 100, dtype=torch.bfloat16), student)) == 10_000


def test_feature_variance_is_numpy_variance():
    feature = normal(6, 4, 3, 5) * 3 + 1
    array = feature.numpy()
    assert float(feature_variance(feature, "map")) == pytest.approx(array.reshape(6, -1).var(1).mean(), rel=1e-5)
    assert float(feature_variance(feature, "channel")) == pytest.approx(array.mean((2, 3)).var(1).mean(), rel=1e-5)
    assert float(feature_variance(feature, "sample")) == pytest.approx(array.var(0).mean(), rel=1e-5)


def test_feature_variance_of_a_fully_connected_layer():
    feature = normal(6, 9)
    assert float(feature_variance(feature)) == pytest.approx(feature.numpy().var(1).mean(), rel=1e-5)
    assert float(feature_variance(feature, "channel")) == pytest.approx(feature.numpy().var(1).mean(), rel=1e-5)


def test_a_constant_added_to_every_image_leaves_the_variance_between_images():
    feature, offset = normal(8, 4, 3, 3), (5 * normal(4, 3, 3, seed=1)).requires_grad_()
    moved = feature_variance(feature + offset, "sample")
    assert moved.item() == pytest.approx(float(feature_variance(feature, "sample")), rel=1e-4)
    moved.backward()
    assert float(offset.grad.abs().max()) < 1e-5


def test_unknown_variance_is_refused():
    with pytest.raises(ValueError, match="no variance mode"):
        feature_variance(normal(2, 2), "total")


def test_attention_distance_is_what_numpy_says():
    target, student = normal(3, 4, 5, 5), normal(3, 2, 5, 5, seed=1).requires_grad_()
    maps = []
    for feature in (target, student.detach()):
        flat = (feature.numpy() ** 2).mean(1).reshape(3, -1)
        maps.append(flat / np.linalg.norm(flat, axis=1, keepdims=True))
    distance = attention_distance(target, student)
    assert distance.item() == pytest.approx(float(((maps[0] - maps[1]) ** 2).mean()), rel=1e-5)
    distance.backward()
    assert float(student.grad.abs().max()) > 0


def test_attention_does_not_see_the_features_scale():
    target, student = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    assert attention_distance(7 * target, 0.3 * student).item() == pytest.approx(
        float(attention_distance(target, student)), rel=1e-5
    )
    assert attention_distance(target, 2 * target).item() == pytest.approx(0, abs=1e-12)


def test_attention_maps_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="different sizes"):
        attention_distance(normal(2, 3, 4, 4), normal(2, 3, 2, 2))


# Few channels on large maps, many on small ones: two ways to the same figure.
SHAPES = [((4, 9, 8), (3, 9, 8)), ((40, 2, 3), (24, 2, 3)), ((30, 3, 3), (2, 3, 3))]


@pytest.mark.parametrize(("of_teacher", "of_student"), SHAPES)
def test_selectivity_distance_is_the_squared_mmd(of_teacher, of_student):
    target, student = normal(2, *of_teacher), normal(2, *of_student, seed=1).requires_grad_()
    expected = 0.0
    for image in range(2):
        t, s = (f.detach()[image].double().flatten(1).numpy() for f in (target, student))
        t, s = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (t, s))
        kernels = [np.mean([[(a @ b) ** 2 for a in one] for b in two]) for one, two in ((t, t), (s, s), (s, t))]
        expected += (kernels[0] + kernels[1] - 2 * kernels[2]) / 2
    distance = selectivity_distance(target, student)
    assert distance.item() == pytest.approx(expected, rel=1e-4)
    distance.backward()
    assert float(student.grad.abs().max()) > 0


def test_selectivity_by_hand():
    # Student: one channel, here. Teacher: one here, one there. 1/2 + 1 - 2 · 1/2 = 1/2.
    target = torch.tensor([[[[3.0, 0.0]], [[0.0, 5.0]]]])
    assert selectivity_distance(target, torch.tensor([[[[2.0, 0.0]]]])).item() == pytest.approx(0.5)


@pytest.mark.parametrize("distance", [attention_distance, selectivity_distance, similarity_distance])
@pytest.mark.parametrize("shape", [(4, 6, 6), (20, 2, 2)])
def test_distances_of_what_is_relative_do_not_see_the_features_scale(distance, shape):
    target, student = normal(3, *shape), normal(3, *shape, seed=1)
    assert distance(100 * target, 0.01 * student).item() == pytest.approx(distance(target, student).item(), rel=1e-4)
    assert distance(target, 2 * target).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("distance", [selectivity_distance, similarity_distance])
@pytest.mark.parametrize("shape", [(4, 6, 6), (20, 2, 2)])
def test_they_are_computed_in_float32_under_autocast(distance, shape):
    """In bfloat16 a difference of nearly equal products would be rounding."""
    target = normal(8, *shape).relu()
    student = (target + 0.01 * normal(8, *shape, seed=1)).relu()
    with torch.autocast("cpu", torch.bfloat16):
        under = distance(target, student)
    assert under.dtype == torch.float32
    assert torch.equal(under, distance(target, student))


@pytest.mark.parametrize("distance", [selectivity_distance, similarity_distance])
def test_dead_features_have_finite_gradients(distance):
    student = normal(4, 6, 5, 5, seed=1).relu()
    student[0], student[:, 0] = 0, 0
    student.requires_grad_()
    distance(normal(4, 6, 5, 5).relu(), student).backward()
    assert float(student.grad.abs().max()) < 1e6


@pytest.mark.parametrize("distance", [selectivity_distance, similarity_distance, hierarchical_context])
def test_no_gradient_reaches_the_target(distance):
    target, student = normal(2, 3, 4, 4).requires_grad_(), normal(2, 3, 4, 4, seed=1).requires_grad_()
    distance(target, student).backward()
    assert target.grad is None


def test_similarity_distance_is_what_numpy_says_of_any_sizes():
    target, student = normal(5, 4, 6, 6), normal(5, 2, 3, 3, seed=1)
    grams = []
    for feature in (target, student):
        flat = feature.numpy().reshape(5, -1)
        gram = flat @ flat.T
        grams.append(gram / np.linalg.norm(gram, axis=1, keepdims=True))
    expected = ((grams[0] - grams[1]) ** 2).sum() / 25
    assert similarity_distance(target, student).item() == pytest.approx(float(expected), rel=1e-4)
    assert similarity_distance(target.flatten(1), student.flatten(1)).item() == pytest.approx(float(expected), rel=1e-4)


def test_similarity_by_hand():
    # The teacher tells two images apart, the student does not: rows (1, 0) and (√½, √½): ((1 - √½)² + ½) · 2 / 4.
    student = torch.ones(2, 1, 1, 1)
    assert similarity_distance(torch.eye(2), student).item() == pytest.approx(((1 - 0.5**0.5) ** 2 + 0.5) / 2)


def checkerboard(height, width):
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return (1.0 - 2 * ((rows + columns) % 2)).expand(2, 3, height, width)


def test_hierarchical_context_is_what_numpy_says():
    target, student = normal(2, 3, 8, 8), normal(2, 3, 8, 8, seed=1)
    difference = (target - student).double().numpy()
    expected, weights = (difference**2).mean(), 1.0
    for weight, n in ((0.5, 4), (0.25, 2), (0.125, 1)):
        small = difference.reshape(2, 3, n, 8 // n, n, 8 // n).mean((3, 5))
        expected, weights = expected + weight * (small**2).mean(), weights + weight
    assert hierarchical_context(target, student).item() == pytest.approx(expected / weights, rel=1e-5)


@pytest.mark.parametrize(
    ("size", "weights"),
    [((8, 8), 1.875), ((5, 6), None), ((4, 4), 1.75), ((2, 2), 1.5), ((1, 1), 1.0), ((8, 2), 1.875), ((1, 4), 1.75)],
)
def test_context_by_hand(size, weights):
    target = normal(2, 3, *size)
    assert hierarchical_context(target, target).item() == 0
    # A constant difference is the same at every grid; one that alternates is gone from all but the finest.
    assert hierarchical_context(target, target + 3).item() == pytest.approx(9, rel=1e-4)
    if weights and size != (1, 1):
        alternating = checkerboard(*size)
        assert hierarchical_context(target, target + alternating).item() == pytest.approx(1 / weights, rel=1e-4)


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="different sizes"):
        selectivity_distance(normal(2, 3, 4, 4), normal(2, 3, 2, 2))
    with pytest.raises(ValueError, match="of 2 and of 3 images"):
        similarity_distance(normal(2, 3), normal(3, 3))
    with pytest.raises(ValueError, match="different shapes"):
        hierarchical_context(normal(2, 3, 4, 4), normal(2, 1, 4, 4))
