"""The shuffling vaccine: what a shuffle is, when one is accepted, and that the teacher stays as it was."""

import copy

import numpy as np
import pytest
import torch

from edgekd import models
from edgekd.datafree.vaccine import Vaccine, VaccineSettings, doubt, last_convolutions, none_accepted
from edgekd.types import InputSpec, ModelSpec


@pytest.fixture(scope="module")
def teacher():
    made = models.build(ModelSpec("wrn-16-1", 4, InputSpec(3, 16, 16, (0.5,) * 3, (0.25,) * 3)), seed=2)
    return made.module.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_last_five_of_a_wrn_are_its_last_block(teacher):
    found = set(last_convolutions(teacher, 5))
    names = {name for name, part in teacher.named_modules() if part in found}
    assert all(name.startswith("net.block3.") for name in names)
    assert len(names) == 5


def test_gathered_inputs_equal_permuted_weights(teacher, images):
    vaccine = Vaccine(VaccineSettings(copies=2), seed=0)
    vaccine.trial.fill_(3)
    logits = []
    for number in range(2):
        twin = copy.deepcopy(teacher)
        for part, order in zip(
            last_convolutions(twin, 5), [o for _, o in vaccine.orders(teacher, 3, number)], strict=True
        ):
            part.weight.data = part.weight[:, torch.argsort(order)]  # conv(W[:, argsort(o)], x) = conv(W, x[:, o])
        logits.append(twin(images))
    torch.testing.assert_close(vaccine(teacher, images), torch.stack(logits).mean(0), atol=1e-5, rtol=1e-5)


def test_the_identity_changes_nothing(teacher, images, monkeypatch):
    monkeypatch.setattr("edgekd.datafree.vaccine.permutation", lambda count, *names: np.arange(count))
    vaccine = Vaccine(VaccineSettings(copies=1), seed=0)
    vaccine.trial.fill_(0)
    assert torch.equal(vaccine(teacher, images), teacher(images))
    assert vaccine.flagged(teacher, images).all()
    assert "it hardly changed the teacher" in (doubt(vaccine.flagged(teacher, images)) or "")
    assert doubt(np.array([True, False, False])) is None


def tailed(monkeypatch, shares):
    """Distances whose share below the rest is one of ``shares`` after another, by trial."""
    left = iter(shares)

    def distance(first, second):
        values = torch.tensor(np.random.default_rng(0).normal(0, 0.2, 1000))
        low = int(next(left) * 1000)
        values[:low] -= 2
        return values

    monkeypatch.setattr("edgekd.datafree.vaccine.log_distance", distance)


def test_the_first_shuffle_with_a_tail_is_taken(teacher, images, monkeypatch):
    tailed(monkeypatch, [0.0, 0.001, 0.15, 0.5])
    anything = {"most_named": 1.0}
    vaccine = Vaccine(VaccineSettings(**anything), seed=0)
    assert not vaccine.searched
    assert not vaccine.flagged(teacher, images).any()
    assert float(vaccine.term(teacher, images)) == 0
    vaccine.search(teacher, images)
    assert vaccine.on
    assert vaccine.report["trial"] == 2
    tails = [trial["mad"] for trial in vaccine.report["trials"]]
    assert tails == pytest.approx([0.0013, 0.002, 0.15], abs=0.004)
    assert [trial["refused"] for trial in vaccine.report["trials"]] == [["no tail"], ["no tail"], []]
    assert none_accepted(vaccine.report) is None
    tailed(monkeypatch, [0.15] * 8)  # hides itself from mean and deviation
    by_mean = Vaccine(VaccineSettings(accept="mean", **anything), seed=0)
    by_mean.search(teacher, images)
    assert by_mean.searched
    assert not by_mean.on
    assert len(by_mean.report["trials"]) == 8
    assert [by_mean.refused(0), by_mean.refused(0, "mad")] == [["no tail"], []]  # either rule can be asked


def test_the_trials_after_the_accepted_one_can_be_looked_at_too(teacher, images, monkeypatch):
    tailed(monkeypatch, [0.0, 0.1, 0.05, 0.0])
    vaccine = Vaccine(VaccineSettings(most_named=1.0, trials=4), seed=0)
    vaccine.search(teacher, images)
    before = vaccine.report["trials"]
    vaccine.look_on(teacher, images)
    assert vaccine.report["trial"] == 1
    assert vaccine.report["trials"][:2] == before
    assert [trial["refused"] for trial in vaccine.report["trials"]] == [["no tail"], [], [], ["no tail"]]


def two_classes():
    """Class 0 where an image is brighter than half; with its two channels exchanged class 0 for everything."""
    first, second = torch.nn.Conv2d(3, 2, 1), torch.nn.Conv2d(2, 2, 1, bias=False)
    first.weight.data = torch.tensor([[1 / 3] * 3, [0.0] * 3]).view(2, 3, 1, 1)
    first.bias.data = torch.tensor([0.0, 1.0])
    second.weight.data = torch.tensor([[10.0, 0.0], [0.0, 5.0]]).view(2, 2, 1, 1)
    return torch.nn.Sequential(first, second, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).requires_grad_(False)


def test_a_shuffle_that_names_one_class_for_most_images_is_refused():
    grey = ((torch.arange(64) + 0.5) / 64).view(64, 1, 1, 1).expand(64, 3, 4, 4)
    settings = {"copies": 1, "layers": 1, "tail": 0.0}
    vaccine = Vaccine(VaccineSettings(**settings), seed=0)
    vaccine.search(two_classes(), grey)
    assert {trial["named"] for trial in vaccine.report["trials"]} == {0.5, 1.0}  # as it was, and exchanged
    assert all(("one class" in each["refused"]) == (each["named"] == 1) for each in vaccine.report["trials"])
    assert not vaccine.on
    said = none_accepted(vaccine.report)
    assert said is not None
    assert "of 8 trials" in said
    assert "named one class for too many of the images" in said
    published = Vaccine(VaccineSettings(**settings, most_named=1.0), seed=0)
    published.search(two_classes(), grey)
    assert not any("one class" in each["refused"] for each in published.report["trials"])
    always = Vaccine(VaccineSettings(**settings, accept="always"), seed=0)
    always.search(two_classes(), grey)
    assert always.report["trial"] == 0


def test_the_term_moves_images_away_and_leaves_the_teacher_as_it_was(teacher, images):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    vaccine = Vaccine(VaccineSettings(accept="always", weight=1.0, pool=64), seed=1)
    vaccine.search(teacher, images)
    pixels = images.clone().requires_grad_(True)
    values = []
    for _ in range(4):
        term = vaccine.term(teacher, pixels)
        (slope,) = torch.autograd.grad(term, pixels)
        pixels = (pixels.detach() - 0.5 * slope / slope.norm()).requires_grad_(True)
        values.append(float(term.detach()))
    assert values[-1] < values[0] < 0
    assert "suspected" not in Vaccine(vaccine.config, seed=1).report
    assert vaccine.driven[0] == 4 * len(images)
    assert 0 < vaccine.report["suspected"] <= 1
    known = vaccine.term(teacher, images, 0 * teacher(images) + torch.eye(4)[0])  # another teacher's answer is believed
    assert not torch.equal(known, vaccine.term(teacher, images))
    assert torch.equal(vaccine.term(teacher, images, teacher(images)), vaccine.term(teacher, images))
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not any(part._forward_pre_hooks for part in teacher.modules())
    fresh = Vaccine(vaccine.config, seed=1)
    fresh.load_state_dict(vaccine.state_dict())
    assert torch.equal(fresh(teacher, images), vaccine(teacher, images))
