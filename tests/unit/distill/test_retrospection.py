"""Self-retrospection: the gradient through the perturbation against a closed form, and what a step may not touch."""

import pytest
import torch
from small_teacher import MEAN_STD, context, model

from edgekd.data import Batches
from edgekd.distill.kd import LogitDistillation, LogitDistillationSettings
from edgekd.distill.retrospection import RetrospectionSettings, SelfRetrospection, hypergradient
from edgekd.training import TrainConfig

A = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
B = torch.tensor([[1.0, -0.5], [0.2, 0.7]], dtype=torch.float64)
C = torch.tensor([0.4, -0.9], dtype=torch.float64)
ETA = 0.1
AUTHORS = {"units": "normalized", "inner_lr": 0.1, "pull": 1e-3, "rate": 0.1}


def gradient(theta, delta, terms):
    """By ``hypergradient``: L_in = δ'Aδ/2 − δ'Bθ, L_out = ‖δ − c‖²/2 + ‖θ‖²/2."""
    value, lead = hypergradient(
        lambda d: d @ A @ d / 2 - d @ (B @ theta), lambda d: (d - C).square().sum() / 2 + theta.square().sum() / 2,
        delta, ETA, terms,
    )  # fmt: skip
    return torch.autograd.grad(value + lead, theta)[0]


@pytest.mark.parametrize("terms", [1, 2, 5, 40])
def test_the_hypergradient_of_a_quadratic_is_the_closed_form(terms):
    theta = torch.tensor([0.8, -1.1], dtype=torch.float64, requires_grad=True)
    delta = torch.tensor([0.5, 0.25], dtype=torch.float64)
    powers = sum(torch.linalg.matrix_power(torch.eye(2, dtype=torch.float64) - ETA * A, k) for k in range(terms))
    expected = theta.detach() + ETA * B.T @ powers @ (delta - C)
    torch.testing.assert_close(gradient(theta, delta, terms), expected, atol=1e-12, rtol=1e-9)


def test_many_terms_are_the_slope_of_the_bilevel_value():
    """Central differences of L_out(δ*(θ), θ), δ* = A^-1 B θ."""
    theta = torch.tensor([0.8, -1.1], dtype=torch.float64)

    def value(at):
        best = torch.linalg.solve(A, B @ at)
        return float((best - C).square().sum() / 2 + at.square().sum() / 2)

    step = torch.eye(2, dtype=torch.float64) * 1e-5
    slopes = torch.tensor([(value(theta + e) - value(theta - e)) / 2e-5 for e in step], dtype=torch.float64)
    found = gradient(theta.clone().requires_grad_(True), torch.linalg.solve(A, B @ theta), 400)
    torch.testing.assert_close(found, slopes, atol=1e-6, rtol=1e-6)


@pytest.fixture
def ready(tiny_images):
    """A function from settings to a prepared method, its student and a batch."""

    def make(**settings):
        teacher, student = model("resnet8-w4"), model("resnet8-w4", seed=1)
        teacher.module.requires_grad_(False)
        inner = LogitDistillation(LogitDistillationSettings(alpha=1.0), teacher.module)
        method = SelfRetrospection(inner, RetrospectionSettings(**settings), teacher.module, teacher.spec.input.std)
        method.prepare(context(student, tiny_images, batch_size=16))
        student.module.train()
        return method, student.module, next(iter(Batches(tiny_images, 16, augment="none").epoch(0)))

    return make


def statistics(network):
    return [b.clone() for n, b in network.named_buffers() if "running" in n]


def test_perturbed_images_leave_running_statistics_alone(ready):
    method, student, batch = ready(inner_steps=3)
    plain, other, _ = ready()
    plain.method.step(batch)  # the distillation alone
    method.step(batch)
    assert all(torch.equal(a, b) for a, b in zip(statistics(student), statistics(other), strict=True))
    assert all(part.training for part in student.modules())
    moving, moved, _ = ready(inner_steps=3, norms="moving")
    moving.step(batch)
    assert not all(torch.equal(a, b) for a, b in zip(statistics(moved), statistics(other), strict=True))


def test_noise_has_a_slope_where_zero_has_none_and_the_search_raises_the_loss(ready):
    method, student, batch = ready(inner_steps=10, pull=0.0)
    student.eval()
    with torch.no_grad():
        reference = student(batch.images)
    inner = method._inner(student, batch.images, reference)
    zero = torch.zeros_like(batch.images[:1]).requires_grad_(True)
    noise = (0.02 * torch.randn(zero.shape, generator=torch.Generator().manual_seed(0))).requires_grad_(True)
    slopes = [float(torch.autograd.grad(inner(delta), delta)[0].norm()) for delta in (zero, noise)]
    assert slopes[0] < 1e-4 < slopes[1]
    found, before = method.sought(batch.images, reference)
    assert float(before) > 0
    assert float(inner(found).detach()) < 10 * float(inner(noise).detach()) < 0  # minus the divergence
    widest = (found * method.scale).abs().max()
    assert float(widest) <= 0.2 + 1e-6
    wild, *_ = ready(inner_steps=10, bound=None, inner_lr=1.0)
    wild.student.eval()
    assert float((wild.sought(batch.images, reference)[0] * wild.scale).abs().max()) > 0.2


def test_the_authors_variants(ready):
    more = {"start": "zero", "by": "teacher", "search": "batch", "share": 0.02, "norms": "moving", "bound": None}
    method, _, batch = ready(**AUTHORS, **more)
    torch.testing.assert_close(method.scale.flatten(), torch.tensor(MEAN_STD[1]))
    terms = method.step(batch)
    assert terms.keys() == {"ce", "kd", "retrospection", "lead"}
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is None for p in method.teacher.parameters())


def test_steps_make_the_student_steadier(ready):
    method, student, batch = ready(inner_steps=5, share=1.0, weight=5.0)
    optimizer = method.optimizer(list(student.parameters()), TrainConfig(epochs=1, lr=3e-3))
    values = []
    for _ in range(8):
        torch.manual_seed(0)
        optimizer.zero_grad()
        terms = method.step(batch)
        (terms["retrospection"] + terms["lead"]).backward()
        method.update(optimizer.step)
        values.append(float(terms["retrospection"].detach()))
    assert values[-1] < 0.5 * values[0]
    assert 0 < method.report["rate"] <= 4e-3
    search = method.report["search"]
    assert 0 < search["before"] < search["after"]
    assert search["after"] == pytest.approx(
        sum(values) / len(values) / 5, rel=1e-3
    )  # of the whole batch, by its weight
    assert 0 < search["pixels"] <= 0.2


def test_the_search_moves_pixels_alike_whatever_the_students_std(ready):
    """The authors' numbers for an image normalised by 0.2 are the defaults; by 0.5 the authors' search is stronger."""
    found = {}
    for std in (0.2, 0.5):
        for name, settings in (("pixels", {}), ("authors", AUTHORS | {"deviation": 0.1})):
            method, student, batch = ready(inner_steps=3, bound=None, **settings)
            method.scale = SelfRetrospection(method.method, method.config, method.teacher, (std,) * 3).scale
            student.eval()
            torch.manual_seed(0)
            with torch.no_grad():
                reference = student(batch.images)
            found[name, std] = method.sought(batch.images, reference)[0] * method.scale
    torch.testing.assert_close(found["pixels", 0.2], found["pixels", 0.5])
    torch.testing.assert_close(found["authors", 0.2], found["pixels", 0.2], atol=1e-3, rtol=0)
    assert float((found["authors", 0.5] - found["pixels", 0.5]).abs().max()) > 0.02


def test_its_length_follows_the_trainings():
    lengths = [RetrospectionSettings().length(steps) for steps in (100, 40_000, 80_000)]
    assert lengths == [400, 400, 800]
    assert RetrospectionSettings(steps=7).length(80_000) == 7
