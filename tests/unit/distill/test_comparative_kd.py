"""Comparative KD: the teacher is asked N times, and what its differences say."""

import pytest
import torch
from small_teacher import model, spec

from edgekd import distill
from edgekd.data import Batches
from edgekd.distill.comparative_kd import ComparativeKD, ComparativeKDSettings, drawn_partners
from edgekd.losses import every_pair_mse, soft_target_kl
from edgekd.training import Context, TrainConfig
from edgekd.types import Model

TRAIN = TrainConfig(epochs=3, batch_size=32, lr=0.02, precision="fp32", augment="crop-flip")


class Counting(torch.nn.Module):
    """A teacher that counts the images it is shown."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.shown = inner, 0

    def forward(self, images):
        self.shown += len(images)
        return self.inner(images)


def counted():
    inner = model("wrn-10-1")
    return Model(inner.spec, Counting(inner.module).eval())


def ready(images, **settings):
    student, teacher = model("resnet8-w4", seed=1).module.eval(), model("wrn-10-1").module
    method = ComparativeKD(ComparativeKDSettings(**settings), teacher)
    batches = Batches(images, TRAIN.batch_size, augment="crop-flip")
    method.prepare(Context(student, batches, TRAIN, torch.device("cpu")))
    return method, next(batches.epoch(0))


def test_every_image_is_asked_about_once_also_those_that_no_batch_holds(tiny_images, tmp_path, monkeypatch):
    images = tiny_images.subset(range(150))  # four batches of 32 and 22 more
    teacher = counted()
    _, log = distill.run(teacher, spec("resnet8-w4"), images, "comparative-kd", {}, TRAIN)
    assert teacher.module.shown == log.method["teacher_calls"] == 150

    class Killed(BaseException):
        pass

    def dying(self, batch):
        raise Killed

    teacher = counted()
    with monkeypatch.context() as patched:
        patched.setattr(ComparativeKD, "step", dying)
        with pytest.raises(Killed):
            distill.run(teacher, spec("resnet8-w4"), images, "comparative-kd", {}, TRAIN, folder=tmp_path)
    distill.run(teacher, spec("resnet8-w4"), images, "comparative-kd", {}, TRAIN, folder=tmp_path)
    assert teacher.module.shown == 150, "a run that goes on does not ask again"
    other, _ = distill.run(
        model("wrn-10-1", seed=3), spec("resnet8-w4"), images, "comparative-kd", {}, TRAIN, folder=tmp_path / "other"
    )
    assert other.sha256


def test_it_keeps_what_the_teacher_said_of_images_as_they_are(tiny_images):
    method, batch = ready(tiny_images)
    pixels = torch.from_numpy(tiny_images.images).float() / 255
    with torch.no_grad():
        assert torch.allclose(method.said, method.teacher(pixels), atol=1e-5)
        shown = method.teacher(batch.images)
    assert not torch.allclose(method.said[batch.index], shown, atol=1e-2), "the student's are augmented"


def test_the_terms_are_the_formula(tiny_images):
    method, batch = ready(tiny_images, kd_weight=0.5, label_weight=2.0, label_loss="differences")
    torch.manual_seed(4)
    with torch.no_grad():
        terms = method.step(batch)
        s, t = method.student(batch.images), method.said[batch.index]
    torch.manual_seed(4)
    (j,) = drawn_partners(32, 2)
    y = torch.nn.functional.one_hot(batch.labels, 4).float()
    wanted = {
        "labels": 2 * (((s - s[j]) - (y - y[j])) ** 2).mean(),
        "relation": (((s - s[j]) - (t - t[j])) ** 2).mean(),
        "kd": 0.5 * soft_target_kl(s, t, 4.0),
    }
    assert terms.keys() == wanted.keys()
    for name, term in terms.items():
        assert float(term) == pytest.approx(float(wanted[name]), rel=1e-5), name


def test_the_control_is_every_pair_at_once(tiny_images):
    method, batch = ready(tiny_images, compare="batch", relation_weight=0.5)
    with torch.no_grad():
        terms = method.step(batch)
        wanted = every_pair_mse(method.student(batch.images), method.said[batch.index])
    assert set(terms) == {"ce", "relation"}
    assert float(terms["relation"]) == pytest.approx(0.5 * float(wanted), rel=1e-5)


def test_the_published_label_loss_leaves_the_bias_of_the_head_where_it_was(tiny_images):
    moved = {}
    for name in ("differences", "cross-entropy"):
        method, batch = ready(tiny_images, label_loss=name)
        torch.stack(list(method.step(batch).values())).sum().backward()
        moved[name] = float(method.student.net.linear.bias.grad.abs().max())
    assert moved["differences"] < 1e-4 < 1e-3 < moved["cross-entropy"]


def test_no_image_is_its_own_partner_and_a_group_has_different_ones():
    for group in (2, 3):
        for size in (3, 8):
            partners = drawn_partners(size, group)
            assert partners.shape == (group - 1, size)
            assert not (partners == torch.arange(size)).any()
            assert len(set(partners[:, 0].tolist())) == group - 1
    assert drawn_partners(2, 3).tolist() == [[1, 0]]
