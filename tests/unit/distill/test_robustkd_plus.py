"""RobustKD+: whom it follows on which image, and what its perturbations are allowed to do."""

import pytest
import torch

from edgekd import models
from edgekd.data import Batch
from edgekd.distill.robustkd_plus import RobustKDPlus, RobustKDPlusSettings
from edgekd.distill.run import method_class
from edgekd.losses import soft_target_kl
from edgekd.training import Context, TrainConfig
from edgekd.types import InputSpec, ModelSpec

SPEC = ModelSpec("resnet8-w4", 3, InputSpec(3, 16, 16, (0.5,) * 3, (0.25,) * 3))
TRAIN = TrainConfig(epochs=10, batch_size=8, precision="fp32", augment="none")


class Few:
    """Two batches of eight images: noise, the class in one bright channel."""

    steps = 2
    labels = torch.zeros(20, dtype=torch.int64)  # of which only the number counts

    def epoch(self, number):
        generator = torch.Generator().manual_seed(5)
        for _ in range(self.steps):
            labels = torch.randint(3, (8,), generator=generator)
            images = 0.3 * torch.rand(8, 3, 16, 16, generator=generator)
            images[torch.arange(8), labels] += 0.6
            yield Batch(images, labels, torch.arange(8))


def ready(teacher=None, **settings):
    student = models.build(SPEC, seed=1).module
    teacher = models.build(SPEC, seed=2).module if teacher is None else teacher
    searched = {} if settings.get("share") == 0 else {"search_steps": 4}
    method = RobustKDPlus(RobustKDPlusSettings(**{"base": "logits", "views": 0, **searched, **settings}), teacher)
    method.prepare(Context(student, Few(), TRAIN, torch.device("cpu")))
    method.start_epoch(0)
    return method, next(Few().epoch(0))


def test_it_follows_the_teacher_only_where_the_label_agrees():
    method, batch = ready(share=0)
    said = method.teacher(batch.images).argmax(1)
    strangers = batch._replace(labels=(said + 1) % 3)
    terms = method.step(strangers)
    assert set(terms) == {"ce"}
    assert terms["ce"] == torch.nn.functional.cross_entropy(method.student(batch.images), strangers.labels)
    friends = method.step(batch._replace(labels=said))
    wanted = soft_target_kl(method.student(batch.images), method.teacher(batch.images), 4.0)
    assert torch.isclose(friends["kd"], 0.9 * wanted)
    assert torch.isclose(friends["ce"], 0.1 * torch.nn.functional.cross_entropy(method.student(batch.images), said))
    half = torch.where(torch.arange(8) < 4, said, (said + 1) % 3)
    method.student.eval()
    kept = soft_target_kl(method.student(batch.images)[:4], method.teacher(batch.images)[:4], 4.0)
    assert torch.isclose(method.step(batch._replace(labels=half))["kd"], 0.9 * 0.5 * kept)


def test_the_teacher_may_speak_once_of_several_views_of_an_image():
    class Views(Few):
        def epoch(self, number):
            for batch, index in zip(super().epoch(number), (torch.arange(8), torch.arange(10, 18)), strict=True):
                yield batch._replace(images=(batch.images + 0.1 * number).clamp(0, 1), index=index)

    student, teacher = models.build(SPEC, seed=1).module, models.build(SPEC, seed=2).module
    method = RobustKDPlus(RobustKDPlusSettings(base="logits", views=2, share=0), teacher)
    method.prepare(Context(student, Views(), TRAIN, torch.device("cpu")))
    one, other = (next(Views().epoch(number)) for number in (0, 1))
    said, seen = method.said
    with torch.no_grad():
        assert torch.allclose(said[:8], (teacher(one.images) + teacher(other.images)) / 2, atol=1e-5)
    assert seen.tolist() == [*[True] * 8, False, False, *[True] * 8, False, False]
    assert set(method.step(one._replace(index=torch.full((8,), 8)))) == {"ce"}
    method.teacher = None  # nobody asks it again
    taught = one._replace(labels=said[:8].argmax(1))
    assert torch.isclose(method.step(taught)["kd"], 0.9 * soft_target_kl(method.student(one.images), said[:8], 4.0))


def test_without_agreement_it_is_hinton_kd():
    method, batch = ready(share=0, agree=False)
    plain = method_class("kd")
    reference = plain(plain.Config(), method.teacher)
    reference.student = method.student
    wanted, found = reference.step(batch), method.step(batch)
    assert set(found) == set(wanted)
    assert all(torch.isclose(found[name], wanted[name]) for name in wanted)


def test_the_last_epochs_are_without_the_teacher():
    method, batch = ready(share=0, wash=0.2)
    for epoch, names in ((7, {"ce", "kd"}), (8, {"ce"})):
        method.start_epoch(epoch)
        said = method.teacher(batch.images).argmax(1)
        assert set(method.step(batch._replace(labels=said))) == names


def test_perturbations_fool_the_teacher_more_than_the_honest_network():
    class Obeys(torch.nn.Module):
        """Right on clean images by the channel that is brightest, and class 2 where the first column is bright."""

        def forward(self, images):
            means = images.mean((2, 3))
            column = images[:, :, :, 0].mean((1, 2))
            return 20 * (means - means.mean(1, keepdim=True)) + 80 * torch.stack(
                [torch.zeros_like(column), torch.zeros_like(column), column - 0.35], 1
            )

    method, batch = ready(Obeys(), bound=0.3, search_steps=12, honest_epochs=1.0)
    fooled = method.report["fooled"]
    assert fooled["teacher"][2] > 0.9
    assert fooled["honest"][2] < 0.6
    assert method.perturbations.shape == (3, 3, 16, 16)
    assert float(method.perturbations.abs().max()) <= 0.3 + 1e-6
    with torch.no_grad():
        before = method.student.eval()(method.counted).argmax(1)
        after = method.student((method.counted + method.perturbations[2]).clamp(0, 1)).argmax(1)
    assert fooled["student"][2] == float((after == 2)[before != 2].float().mean())
    torch.manual_seed(1)
    terms = method.step(batch)
    torch.manual_seed(1)
    changed = (batch.images[:4] + method.perturbations[torch.randint(3, (4,))]).clamp(0, 1)
    said = method.student(torch.cat([batch.images, changed]))[8:]
    assert torch.isclose(terms["perturbed"], 0.5 * torch.nn.functional.cross_entropy(said, batch.labels[:4]))


def test_features_are_followed_on_the_same_images_as_the_outputs():
    method, batch = ready(base="both", share=0, wash=0.2)
    said = method.teacher(batch.images).argmax(1)
    some = batch._replace(labels=torch.where(torch.arange(8) < 5, said, (said + 1) % 3))
    method.student.eval()
    method.connectors.eval()
    terms = method.step(some)
    assert set(terms) == {"ce", "kd", "features"}
    plain = method_class("overhaul")
    reference = plain(plain.Config(), method.teacher)
    reference.prepare(Context(method.student, Few(), TRAIN, torch.device("cpu")))
    reference.connectors.eval()
    wanted = reference.step(some._replace(images=some.images[:5], labels=some.labels[:5]))["features"]
    assert torch.isclose(terms["features"], wanted * 5 / 8, rtol=1e-4)
    method.start_epoch(8)  # of ten: the teacher is silent
    assert set(method.step(some)) == {"ce"}


def test_features_alone_leave_the_labels_their_whole_weight():
    method, batch = ready(base="features", views=8, share=0)
    plain = method_class("overhaul")
    reference = plain(plain.Config(), method.teacher)
    reference.prepare(Context(method.student, Few(), TRAIN, torch.device("cpu")))
    said = method.teacher(batch.images).argmax(1)
    wanted, found = (each.step(batch._replace(labels=said)) for each in (reference, method))
    assert set(found) == set(wanted)
    assert all(torch.isclose(found[name], wanted[name], rtol=1e-4) for name in wanted)


def test_a_network_that_says_one_class_only_fools_nobody_into_it():
    class Always(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([5.0, 0.0, 0.0]) + 0 * images.mean((2, 3))

    method, _ = ready(Always())
    assert method.report["fooled"]["teacher"] == [None, 0.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base": "logits", "beta": 0.1}, "beta does nothing with base=logits"),
        ({"base": "features", "temperature": 2.0}, "temperature does nothing with base=features"),
        ({"share": 0, "bound": 0.2}, "bound does nothing with share=0 or weight=0"),
    ],
)
def test_settings_without_effect_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        RobustKDPlusSettings(**settings)


def test_one_followed_image_of_a_batch_is_enough():
    """The connectors' norms see the whole batch, also at sites of one position."""
    spec = ModelSpec("resnet18", 3, InputSpec(3, 8, 8, (0.5,) * 3, (0.25,) * 3))
    student, teacher = models.build(spec, seed=1).module, models.build(spec, seed=2).module

    class Small(Few):
        def epoch(self, number):
            return (batch._replace(images=batch.images[:, :, :8, :8]) for batch in super().epoch(number))

    method = RobustKDPlus(RobustKDPlusSettings(share=0, views=0, margin_images=8), teacher)
    method.prepare(Context(student, Small(), TRAIN, torch.device("cpu")))
    method.start_epoch(0)
    batch = next(Small().epoch(0))
    said = teacher(batch.images).argmax(1)
    labels = torch.where(torch.arange(8) == 3, said, (said + 1) % 3)
    assert float(method.step(batch._replace(labels=labels))["features"].detach()) > 0
