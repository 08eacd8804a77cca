"""The shuffling vaccine: what a shuffle is, when one is accepted, and that the teacher stays as it was."""

import copy

import numpy as np
import pytest
import torch

from edgekd import models
from edgekd.datafree.vaccine import Vaccine, VaccineSettings, doubt, last_convolutions
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
    vaccine = Vaccine(VaccineSettings(), seed=0)
    assert not vaccine.searched
    assert not vaccine.flagged(teacher, images).any()
    assert float(vaccine.term(teacher, images)) == 0
    vaccine.search(teacher, images)
    assert vaccine.on
    assert vaccine.report["trial"] == 2
    assert vaccine.report["tails"] == pytest.approx([0.0013, 0.002, 0.15], abs=0.004)
    tailed(monkeypatch, [0.15] * 8)  # hides itself from mean and deviation
    by_mean = Vaccine(VaccineSettings(accept="mean"), seed=0)
    by_mean.search(teacher, images)
    assert by_mean.searched
    assert not by_mean.on
    assert len(by_mean.report["tails"]) == 8


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
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not any(part._forward_pre_hooks for part in teacher.modules())
    fresh = Vaccine(vaccine.config, seed=1)
    fresh.load_state_dict(vaccine.state_dict())
    assert torch.equal(fresh(teacher, images), vaccine(teacher, images))
