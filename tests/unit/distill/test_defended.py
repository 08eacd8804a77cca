"""Distillation under ABD: when the retrospection runs, when it is taken back, and how long it is."""

import copy

import numpy as np
import pytest
import torch
from small_teacher import model, spec

from edgekd import datafree, distill
from edgekd.datafree.patches import Patches
from edgekd.distill.abd import AbdSettings, _pieces
from edgekd.distill.from_source import FromSource
from edgekd.training import TrainConfig
from edgekd.training.device import resolve_device

TRAIN = TrainConfig(epochs=1, batch_size=16, lr=0.02, precision="fp32")
QUICK = {
    "patches": {"images": 64},
    "zskt": {"rounds": 2, "student_steps": 2, "width": 8},
    "cmi": {"images": 16, "inversion_steps": 2, "student_steps": 4, "width": 8, "bank": 20, "negatives": 8},
}


@pytest.fixture(scope="module")
def teacher():
    made = model("resnet8-w4", seed=4)
    made.module.requires_grad_(False)
    return made


@pytest.fixture
def defended(teacher, photo):
    """A function from ABD's settings to the student, its log and the source."""

    def make(source="patches", accuracy=lambda network: 0.5, device="cpu", judge=None, **settings):
        quick = {"steps": 2, "inner_steps": 1, **settings.pop("retrospect", {})}
        shuffle = {"pool": 64, "copies": 1, **settings.pop("shuffle", {})}
        abd = AbdSettings(shuffle=shuffle, retrospect=quick, **settings)
        train = TRAIN.model_copy(update={"device": device})
        options = {**QUICK[source], **({"image": photo} if source == "patches" else {})}
        images = datafree.make(source, options, teacher, train, abd.vaccine_settings)
        made, log = distill.distill_defended(
            teacher, spec("resnet8-w4"), images, "kd", {"alpha": 1.0}, train, abd, accuracy=accuracy, judge=judge
        )
        return made, log, images

    make.teacher = teacher
    return make


def test_auto_looks_back_where_no_vaccine_was_accepted(defended):
    _, accepted, _ = defended(shuffle={"accept": "always"})
    assert accepted.method["source"]["vaccine"]["accepted"]
    assert "retrospection" not in accepted.method
    _, none, _ = defended(shuffle={"tail": 1.0})
    assert not none.method["source"]["vaccine"]["accepted"]
    assert none.method["retrospection"]["kept"]
    assert none.epochs == 2
    assert none.steps == accepted.steps + 2


def test_without_an_accepted_vaccine_patches_teach_what_they_taught_without_one(defended):
    sought, log, _ = defended(shuffle={"tail": 1.0}, retrospection=False)
    assert not log.method["source"]["vaccine"]["accepted"]
    assert sought.sha256 == defended(vaccine=False, retrospection=False)[0].sha256


def test_a_retrospection_that_costs_too_much_is_taken_back(defended):
    plain, _, _ = defended(retrospection=False)
    figures = iter((0.9, 0.7, 0.9, 0.85))
    back, log, _ = defended(retrospection=True, accuracy=lambda network: next(figures))
    found = log.method["retrospection"]
    assert found | {"rate": 0, "search": 0} == {
        "before": 0.9, "after": 0.7, "agreement": [0.9, 0.7], "kept": False, "rate": 0, "search": 0, "start": plain.sha256,
    }  # fmt: skip
    assert back.sha256 == plain.sha256
    after, log, _ = defended(retrospection=True, accuracy=lambda network: next(figures))
    assert log.method["retrospection"]["kept"]
    assert after.sha256 != plain.sha256


def test_what_judges_it_is_told_what_the_vaccine_suspects(defended, monkeypatch):
    shown, figures = np.random.default_rng(0).integers(0, 255, (8, 3, 16, 16), np.uint8), iter((0.9, 0.85))
    told = []

    def judge(suspects):
        told.append(suspects(shown))
        return lambda network: next(figures)

    _, log, images = defended(retrospection=True, judge=judge, accuracy=lambda network: 0.2, shuffle={"tail": 1.0})
    assert not told[0].any()  # no vaccine was accepted
    found = log.method["retrospection"]
    assert (found["before"], found["after"], found["agreement"], found["kept"]) == (0.9, 0.85, [0.2, 0.2], True)
    images.vaccine.trial.fill_(0)
    monkeypatch.setattr("edgekd.datafree.vaccine.permutation", lambda count, *names: np.arange(count))
    assert images.flagged(shown).all()
    assert datafree.make("patches", {}, defended.teacher, TRAIN).flagged(shown).tolist() == [False] * 8


def test_norms_do_not_follow_suspects_that_are_learned_from(defended, monkeypatch):
    monkeypatch.setattr(Patches, "_suspects", lambda self: np.arange(len(self.pool.images)) % 3 == 0)
    seen = []
    original = FromSource.step

    def step(self, batch):
        suspect = self.source.suspect[batch.index]
        before = copy.deepcopy(self.student)
        terms = original(self, batch)
        before(batch.images[~suspect])
        pairs = zip(before.named_buffers(), self.student.named_buffers(), strict=True)
        seen.append(all(torch.equal(a, b) for (name, a), (_, b) in pairs if "running" in name))
        return terms

    monkeypatch.setattr(FromSource, "step", step)
    defended(shuffle={"suspect_weight": 0.5}, retrospection=False)
    assert len(seen) == 4
    assert all(seen)


def test_without_weight_it_is_a_control_of_as_many_steps(defended):
    _, log, _ = defended(retrospection=True, retrospect={"weight": 0.0})
    assert log.epochs == 2
    assert "retrospection" not in log.history[-1]
    assert "retrospection" in defended(retrospection=True)[1].history[-1]


def test_pieces_are_even_and_hold_all_steps():
    assert [_pieces(steps) for steps in (1, 50, 120, 400, 401)] == [(1, 1), (1, 50), (3, 40), (8, 50), (9, 45)]


@pytest.mark.gpu
@pytest.mark.parametrize("source", list(datafree.SOURCES))
def test_on_cuda(defended, source, teacher):
    seen = []

    def accuracy(network):
        images = torch.rand(8, 3, 16, 16, device=resolve_device("cuda"))
        seen.append(network(images).device.type)
        return 0.5

    always = {"accept": "always"}
    made, _, images = defended(source, accuracy, "cuda", retrospection=True, shuffle=always)
    assert seen == ["cuda", "cuda"]
    assert len(images.collect(16, 0)) == 16
    assert {t.device.type for m in (made, teacher) for t in m.module.state_dict().values()} == {"cpu"}
