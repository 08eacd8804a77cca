"""CMKD: what it compares, and who may weigh it."""

import pytest
import torch
import torch.nn.functional as F
from small_teacher import context, model

from edgekd.distill import cmkd
from edgekd.distill.cmkd import CMKD, CMKDSettings, first_classes
from edgekd.losses import entropy_share, pearson, soft_rank, standardised


def ready(images, **settings):
    method = CMKD(CMKDSettings(**settings), model("wrn-10-1").module)
    place = context(model("resnet8-w4", seed=1), images)
    method.prepare(place)
    method.student.eval()
    return method, next(iter(place.batches.epoch(0)))


def test_the_terms_are_the_formula(tiny_images):
    method, batch = ready(tiny_images, weight=3.0, temperature=2.0, least_weight=0.0)
    with torch.no_grad():
        terms = method.step(batch)
        s, t = method.student(batch.images), method.teacher(batch.images)
        hard = entropy_share(t)
        values = 1 - pearson((standardised(s) / 2).softmax(1), (standardised(t) / 2).softmax(1))
        order = 1 - pearson(soft_rank(standardised(s), 0.1), soft_rank(standardised(t), 0.1))
        wanted = {
            "ce": F.cross_entropy(s, batch.labels),
            "values": 3 * 4 * ((1 - hard) * values).mean(),
            "order": 3 * (hard * order).mean(),
        }
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(
        {name: float(term) for name, term in wanted.items()}, rel=1e-4
    )


def test_polarities_and_controls(tiny_images):
    teacher = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [99.0, 0.0, 0.0]])
    share = entropy_share(teacher)

    def order(**settings):
        values, order = ready(tiny_images, **settings)[0].weights(teacher)
        assert torch.allclose(values + order, torch.ones(3))
        return order.tolist()

    assert order(least_weight=0.0) == pytest.approx(share.tolist())
    assert order(balance="rank easy", least_weight=0.0) == pytest.approx((1 - share).tolist())
    assert order() == pytest.approx([0.8, 0.2, 0.2]), "a teacher cannot switch either off"
    assert [order(balance=name) for name in ("values", "constant", "ranks")] == [[0.0] * 3, [0.5] * 3, [1.0] * 3]


def test_a_teacher_that_is_sure_of_everything_still_spreads_the_weights_of_a_batch(tiny_images):
    sure = torch.tensor([[14.0, 1.0, 0.0], [15.0, 1.0, 0.0], [16.0, 1.0, 0.0], [17.0, 1.0, 0.0]])
    plain = ready(tiny_images, least_weight=0.0)[0].weights(sure)[1]
    beside = ready(tiny_images, least_weight=0.0, difficulty="batch")[0].weights(sure)[1]
    assert float(plain.max() - plain.min()) < 1e-4
    same = torch.zeros(4, 3)
    assert ready(tiny_images, difficulty="batch")[0].weights(same)[1].tolist() == pytest.approx([0.5] * 4)
    assert float(beside.max() - beside.min()) > 0.3


def test_only_the_first_classes_and_the_label_are_ranked(tiny_images, monkeypatch):
    teacher = torch.tensor([[5.0, 4.0, 3.0, 2.0], [5.0, 4.0, 3.0, 2.0]])
    assert [sorted(row) for row in first_classes(teacher, torch.tensor([3, 0]), 2).tolist()] == [[0, 3], [0, 1]]
    method, batch = ready(tiny_images, ranked=3)
    shapes = []
    monkeypatch.setattr(cmkd, "soft_rank", lambda rows, t: shapes.append(tuple(rows.shape)) or soft_rank(rows, t))
    method.step(batch)
    assert shapes == [(32, 3)] * 2, "memory is the square of what is ranked"
