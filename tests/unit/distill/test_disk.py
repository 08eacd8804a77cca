"""DiSK: who learns from whom and when, and what the helper does with its budget."""

import math

import pytest
import torch
from small_teacher import context, model

from edgekd.distill import disk
from edgekd.distill.disk import DiSK, DiSKSettings, budget, multiplier
from edgekd.losses import capped_cross_entropy


def ready(images, epochs=8, **settings):
    method = DiSK(DiSKSettings(**settings), model("wrn-10-1").module)
    place = context(model("resnet8-w4", seed=1), images, epochs=epochs)
    method.prepare(place)
    method.student.train(), method.helper.train()
    return method, next(iter(place.batches.epoch(0)))


def reached(method, term):
    """Whether gradients of one term reach the student, and the helper."""
    for module in (method.student, method.helper):
        module.zero_grad(set_to_none=True)
    term.backward(retain_graph=True)
    return tuple(any(p.grad is not None for p in m.parameters()) for m in (method.student, method.helper))


def test_neither_trains_the_other(tiny_images):
    method, batch = ready(tiny_images)
    method.start_epoch(7)
    terms = method.step(batch)
    found = {name: reached(method, term) for name, term in terms.items()}
    assert found == {"ce": (True, False), "kd": (True, False), "helper": (False, True), "spent": (False, True)}
    assert all(p.grad is None for p in method.teacher.parameters())


def test_labels_come_first_and_the_helper_warms_up_in_their_last_epoch(tiny_images):
    method, batch = ready(tiny_images, epochs=12)
    seen = []
    for epoch in range(12):
        method.start_epoch(epoch)
        seen.append(frozenset(method.step(batch)))
    assert seen == [{"ce"}] * 2 + [{"ce", "helper", "spent"}] + [{"ce", "kd", "helper", "spent"}] * 9
    given, _ = ready(tiny_images, epochs=12, labels_first=0)
    assert (given.first, given.warm) == (1, 0)
    assert ready(tiny_images, epochs=1)[0].first == 0


def test_without_the_censor_the_student_does_not_see_the_helper(tiny_images):
    losses = {}
    for censor in (True, False):
        for bias in (-20.0, 3.0):
            method, batch = ready(tiny_images, censor=censor)
            torch.nn.init.constant_(method.helper.path[-1].bias, bias)
            method.start_epoch(7)
            losses[censor, bias] = float(method.step(batch)["kd"].detach())
    assert losses[False, -20.0] == losses[False, 3.0] == pytest.approx(losses[True, -20.0], rel=1e-5)
    assert losses[True, 3.0] < losses[True, -20.0], "what is lent lowers the loss"


def test_a_perfect_batch_is_finite(tiny_images):
    method, batch = ready(tiny_images)
    method.start_epoch(7)
    with torch.no_grad():
        labels = method.student(batch.images).argmax(1)
    terms = method.step(batch._replace(labels=labels))
    assert all(math.isfinite(term.item()) for term in terms.values())
    assert method.report["helper"][-1]["wrong"] is None


def test_schedules_by_hand():
    assert [budget(done, 0.6, 0.4) for done in (0.0, 0.05, 0.1)] == pytest.approx([0.6, 0.5, 0.54])
    assert budget(0.99, 0.6, 0.4) == pytest.approx(0.4), "a start that fell below the last budget is not risen from"
    assert [multiplier(done) for done in (0.0, 0.125, 0.2499, 0.25)] == pytest.approx([1, 3, 5, 1], abs=1e-3)


def test_the_diary_is_what_was_seen(tiny_images):
    method, batch = ready(tiny_images)
    method.start_epoch(7)
    kept = {}
    method.helper.register_forward_hook(lambda _, __, g: kept.update(g=g.detach()))
    method.student.register_forward_hook(lambda _, __, logits: kept.update(logits=logits.detach()))
    method.step(batch)
    g, logits = kept["g"], kept["logits"]
    right = logits.argmax(1) == batch.labels
    own = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    (entry,) = method.report["helper"]
    assert entry["epoch"] == 8
    assert entry["mean"] == pytest.approx(float(g.mean()), rel=1e-5)
    assert entry["right"] == pytest.approx(float(g[right].mean()), rel=1e-5)
    assert entry["wrong"] == pytest.approx(float(g[~right].mean()), rel=1e-5)
    wanted = torch.corrcoef(torch.stack([g.double(), own.double()]))[0, 1]
    assert entry["correlation"] == pytest.approx(float(wanted), rel=1e-3)
    charge = capped_cross_entropy(logits, method.teacher(batch.images), 5.0)
    over = float((g * charge).sum() / (~right).sum()) - budget((7 - method.first) / (8 - method.first), 0.6, 0.4)
    assert entry["over_budget"] == pytest.approx(max(over, 0), rel=1e-3)


def test_a_dear_budget_of_nothing_closes_the_helper_and_a_large_one_opens_it(tiny_images, monkeypatch):
    monkeypatch.setattr(disk, "CHARGE", (100.0, 100.0))
    means = {}
    for most in (50.0, 0.0):
        method, batch = ready(tiny_images, budget=most, last_budget=most)
        with torch.no_grad():
            feature, student = method.teacher.sites(batch.images).targets[-1], method.student(batch.images)
            teacher = method.teacher(batch.images)
        optimizer = torch.optim.Adam(method.helper.parameters(), lr=2e-2)
        for _ in range(40):
            optimizer.zero_grad()
            g = method.helper(feature)
            torch.stack(list(method._helped(student, teacher, g, batch.labels, 0.5).values())).sum().backward()
            optimizer.step()
        means[most] = float(g.detach().mean())
    assert means[0.0] < 0.1
    assert means[50.0] > 0.9


def test_half_of_few_classes_are_plausible(tiny_images):
    assert ready(tiny_images)[0].top_k == 2  # of four
    assert ready(tiny_images, top_k=3)[0].top_k == 3
