"""One call that distils: what it refuses, what it returns, how it continues."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from small_teacher import QUICK, accuracy_on, model, spec
from torch import nn

from edgekd import distill, models
from edgekd.data import ImageSet
from edgekd.distill.run import method_class
from edgekd.errors import EdgekdError, UsageError
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, Model, ModelSpec

TRAIN = TrainConfig(epochs=2, batch_size=32, lr=0.05, precision="fp32", augment="crop-flip")


class LogitsOnly(nn.Module):
    """What an ONNX teacher is to a method: no weights, no sites."""

    def forward(self, images):
        return torch.stack([images.mean((1, 2, 3))] * 4, 1)


def blind_teacher():
    return Model(spec("onnx"), LogitsOnly().eval(), "0" * 64)


def test_the_student_is_returned_ready_to_use(tiny_images):
    student, log = distill.run(
        model("wrn-10-1"), spec("resnet8-w4"), tiny_images, "kd", {}, TRAIN, validate=accuracy_on(tiny_images)
    )
    assert student.spec == spec("resnet8-w4")
    assert not student.module.training
    assert student.sha256 == models.weights_sha256(student.module.net.state_dict())
    assert {"ce", "kd", "acc", "loss"} <= log.history[-1].keys()
    rebuilt = models.build(student.spec, student.module.net.state_dict())
    assert rebuilt.sha256 == student.sha256


def test_kd_is_the_weighted_sum_of_its_terms(tiny_images):
    from small_teacher import context

    from edgekd.distill.kd import LogitDistillation, LogitDistillationSettings
    from edgekd.losses import soft_target_kl

    teacher, student = model("wrn-10-1"), model("resnet8-w4")
    method = LogitDistillation(LogitDistillationSettings(temperature=3, alpha=0.7), teacher.module)
    place = context(student, tiny_images)
    method.prepare(place)
    batch = next(iter(place.batches.epoch(0)))
    with torch.no_grad():
        terms = method.step(batch)
        s, t = student.module(batch.images), teacher.module(batch.images)
        assert float(terms["kd"]) == pytest.approx(0.7 * float(soft_target_kl(s, t, 3)), rel=1e-6)
        assert float(terms["ce"]) == pytest.approx(0.3 * float(nn.functional.cross_entropy(s, batch.labels)), rel=1e-6)


def test_fine_tuning_starts_from_the_teacher_and_leaves_it_alone(tiny_images):
    teacher = model("wrn-10-1")
    before = models.weights_sha256(teacher.module.state_dict())
    student, log = distill.run(teacher, spec("resnet8-w4"), tiny_images, "finetune", {"lr": 1e-12}, TRAIN)
    assert student.spec == teacher.spec
    assert log.history[0]["lr"] == pytest.approx(1e-12, rel=0.1)
    assert models.weights_sha256(teacher.module.state_dict()) == before
    for name, parameter in student.module.named_parameters():
        torch.testing.assert_close(parameter.detach(), teacher.module.get_parameter(name).detach())
    moved, _ = distill.run(teacher, teacher.spec, tiny_images, "finetune", {}, TRAIN)
    assert moved.sha256 != teacher.sha256


def test_scratch_needs_no_teacher_and_does_not_look_at_one(tiny_images):
    alone, _ = distill.run(None, spec("resnet8-w4"), tiny_images, "scratch", {}, TRAIN)
    beside, _ = distill.run(model("wrn-10-1"), spec("resnet8-w4"), tiny_images, "scratch", {}, TRAIN)
    assert alone.sha256 == beside.sha256


def test_a_teacher_of_logits_alone_works_where_it_can(tiny_images):
    student, _ = distill.run(blind_teacher(), spec("resnet8-w4"), tiny_images, "kd", {}, TRAIN)
    assert len(student.sha256) == 64
    works = ", ".join(name for name in distill.METHODS if method_class(name).needs in ("nothing", "logits"))
    assert works.startswith("scratch, kd, dkd, dist")
    for method in ("overhaul", "robustkd", "finetune", "crd"):
        with pytest.raises(UsageError, match=rf"offers logits only. Methods that work with it: {works}\."):
            distill.run(blind_teacher(), spec("resnet8-w4"), tiny_images, method, {}, TRAIN)


REFUSED = [
    ("robustk", {}, "no method .*Did you mean 'robustkd'"),
    ("kd", {"temprature": 2}, "no setting 'temprature'. Did you mean 'temperature'"),
    ("kd", {"alpha": 2}, "alpha = 2 .* less than or equal to 1"),
    ("robustkd", {"variance_mode": "sample"}, "Invalid settings of the method 'robustkd': variance_mode sample"),
    ("robustkd", {"lambda_f": "auto", **QUICK}, "to a number"),
]


@pytest.mark.parametrize(
    ("method", "options", "words"), REFUSED, ids=[row[0] + str(n) for n, row in enumerate(REFUSED)]
)
def test_bad_names_and_settings_are_one_message(tiny_images, method, options, words):
    with pytest.raises(UsageError, match=words):
        distill.run(model("wrn-10-1"), spec("resnet8-w4"), tiny_images, method, options, TRAIN)


def test_networks_and_images_that_do_not_fit(tiny_images):
    ten = spec("resnet8-w4", classes=10)
    with pytest.raises(UsageError, match=r"knows 4 classes, but the student resnet8-w4 10"):
        distill.run(model("wrn-10-1"), ten, tiny_images, "kd", {}, TRAIN)
    with pytest.raises(UsageError, match="needs a teacher"):
        distill.run(None, spec("resnet8-w4"), tiny_images, "kd", {}, TRAIN)
    with pytest.raises(UsageError, match="images are 3 x 16 x 16 of 4 classes"):
        distill.run(model("wrn-10-1"), spec("resnet8-w4", side=32), tiny_images, "kd", {}, TRAIN)
    larger = ImageSet(np.zeros((8, 3, 32, 32), np.uint8), np.zeros(8, np.int64), ("a", "b", "c", "d"))
    with pytest.raises(UsageError, match="the same image"):
        distill.run(model("wrn-10-1"), spec("resnet8-w4", side=32), larger, "kd", {}, TRAIN)
    many = dataclasses.replace(tiny_images, class_names=("a", "b", "c", "d", "e"))
    with pytest.raises(UsageError, match="5 classes"):
        distill.run(None, spec("resnet8-w4"), many, "scratch", {}, TRAIN)


def test_a_method_that_touches_the_teacher_is_found_out(tiny_images, monkeypatch):
    from edgekd.distill.kd import LogitDistillation

    def training_mode(self, batch):
        self.teacher.train()
        return original(self, batch)

    original = LogitDistillation.step
    monkeypatch.setattr(LogitDistillation, "step", training_mode)
    with pytest.raises(EdgekdError, match="changed the teacher"):
        distill.run(model("wrn-10-1"), spec("resnet8-w4"), tiny_images, "kd", {}, TRAIN)


def test_student_and_teacher_may_normalise_differently(tiny_images):
    other = ModelSpec("resnet8-w4", 4, InputSpec(3, 16, 16, (0.5,) * 3, (0.25,) * 3))
    student, _ = distill.run(model("wrn-10-1"), other, tiny_images, "overhaul", {}, TRAIN)
    assert student.spec.input.mean == (0.5,) * 3


def test_fewer_images_than_a_batch(tiny_images):
    _, log = distill.run(
        None,
        spec("resnet8-w4"),
        tiny_images.subset(np.arange(20)),
        "scratch",
        {},
        TRAIN.model_copy(update={"epochs": 1}),
    )
    assert log.steps == 1


@pytest.mark.parametrize("change", ["options", "teacher", "student", "images", "train", "method"])
def test_a_folder_of_another_run_is_refused(tiny_images, tmp_path, change):
    given = {
        "teacher": model("wrn-10-1"),
        "student": spec("resnet8-w4"),
        "images": tiny_images,
        "method": "kd",
        "options": {},
        "train": TRAIN.model_copy(update={"epochs": 1}),
    }
    distill.run(**given, folder=tmp_path)
    given[change] = {
        "options": {"alpha": 0.5},
        "teacher": model("wrn-10-1", seed=1),
        "student": spec("resnet8-w6"),
        "images": tiny_images.subset(np.arange(159)),
        "train": TRAIN,
        "method": "scratch",
    }[change]
    with pytest.raises(UsageError, match="holds a training run with other settings"):
        distill.run(**given, folder=tmp_path)


def test_the_log_is_plain_json(tiny_images):
    _, log = distill.run(model("wrn-10-1"), spec("resnet8-w4"), tiny_images, "robustkd", QUICK, TRAIN)
    told = json.loads(json.dumps(log.to_json(), allow_nan=False))
    assert told["method"]["detox"]["lambda_f"] == 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("method", list(distill.METHODS))
def test_on_cuda(tiny_images, method):
    options = QUICK if method == "robustkd" else {}
    teacher = model("wrn-10-1")
    train = TRAIN.model_copy(update={"device": "cuda", "precision": "bf16"})
    student, log = distill.run(teacher, spec("resnet8-w4"), tiny_images, method, options, train)
    assert log.history[-1]["loss"] < log.history[0]["loss"]
    assert {t.device.type for m in (student, teacher) for t in m.module.state_dict().values()} == {"cpu"}
