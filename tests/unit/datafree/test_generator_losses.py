"""What drives the sources that make images: each loss is the sum of its parts, and a step goes where it says."""

import pytest
import torch
import torch.nn.functional as F

from edgekd import datafree, models
from edgekd.datafree import View
from edgekd.datafree.base import pixels
from edgekd.datafree.generator import views
from edgekd.datafree.told import Told
from edgekd.losses import class_balance, disagreement, kl_each, matched_pairs, statistics_distance
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, ModelSpec

SPEC = ModelSpec("resnet8-w4", 3, InputSpec(3, 8, 8, (0.5,) * 3, (0.25,) * 3))
VACCINE = datafree.VaccineSettings(pool=64, copies=1, layers=2, accept="always", weight=0.5)
QUICK = {
    "zskt": {"rounds": 1, "student_steps": 1, "width": 8, "latent": 4, "generator_lr": 1e-4},
    "cmi": {"images": 8, "inversion_steps": 4, "student_steps": 1, "width": 8, "latent": 4, "bank": 16, "negatives": 4, "lr": 0.5},
}  # fmt: skip


def opened(name, vaccine=None, epochs=2, **options):
    teacher = models.build(SPEC, seed=4)
    for part in teacher.module.modules():  # as after a training: fresh norms would do nothing
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.copy_(torch.linspace(-0.3, 0.3, part.num_features))
            part.running_var.copy_(torch.linspace(0.5, 1.5, part.num_features))
    teacher.module.requires_grad_(False).eval()
    train = TrainConfig(epochs=epochs, batch_size=8, precision="fp32")
    source = datafree.make(name, {**QUICK[name], **options}, teacher, train, vaccine)
    source.open(View(Told(teacher.module), models.build(SPEC, seed=1).module, torch.device("cpu")))
    if vaccine is not None:
        source.vaccine.trial.fill_(0)
    return source, teacher.module


def between(source, teacher, noise):
    """KL(T || S) of the images of this noise, the student in eval mode, and those images."""
    images, student = source.generator(noise), source.view.student.eval()
    with torch.no_grad():
        return float(kl_each(teacher(images), student(images)).mean()), images.detach()


def test_a_step_of_zskt_raises_the_divergence_on_the_same_noise():
    source, teacher = opened("zskt", balance=0.0)
    noise = source.noise((8, 4), "test")
    before, _ = between(source, teacher, noise)
    source._step(noise, 0)
    assert between(source, teacher, noise)[0] > before


@pytest.mark.parametrize("vaccine", [None, VACCINE])
def test_zskts_loss_is_the_sum_of_its_parts(vaccine, monkeypatch):
    source, teacher = opened("zskt", vaccine, balance=3.0)
    noise, student, slopes = source.noise((8, 4), "test"), source.view.student, []
    monkeypatch.setattr("edgekd.datafree.zskt.LOPSIDED", 0.0)
    monkeypatch.setattr("edgekd.datafree.zskt.nn.utils.clip_grad_norm_", lambda parameters, most: slopes.extend(p.grad.clone() for p in parameters))  # fmt: skip
    images = source.generator(noise)
    student.eval()
    loss = 3.0 * class_balance(teacher(images)) - kl_each(teacher(images), student(images)).mean()
    if vaccine is not None:
        with torch.no_grad():
            assert source.vaccine.flagged(teacher, images).any()
        loss = loss + source.vaccine.term(teacher, images)
    expected = torch.autograd.grad(loss, list(source.generator.parameters()))
    source._step(noise, 0)
    for found, wanted in zip(slopes, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_cmis_loss_is_the_sum_of_its_parts():
    weights = {"statistics": 0.7, "named": 1.3, "adversarial": 0.6, "contrast": 0.9, "temperature": 0.2}
    source, teacher = opened("cmi", VACCINE, **weights)
    source.bank.add(*torch.rand(2, 6, source.norms.width))
    images, classes = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    student = source.view.student.eval()
    student.load_state_dict(teacher.state_dict())  # one that names the teacher's classes, less surely
    student.net.linear.weight.data.mul_(0.5)
    loss, local, wide = source._loss(images, classes, torch.Generator().manual_seed(3))
    draws = torch.Generator().manual_seed(3)
    first, second = views(images, draws)
    logits, inputs = source.norms(first)
    past = source.bank.sample(4, draws)
    assert torch.equal(local, source.norms.pooled(source.norms(second)[1]))
    assert torch.equal(wide, source.norms.pooled(inputs))
    pairs = source.head(torch.cat([local, past[0]])), source.head(torch.cat([wide, past[1]]))
    parts = [
        0.7 * statistics_distance(inputs, source.norms.running),
        1.3 * F.cross_entropy(logits, classes),
        -0.6 * disagreement(source.view.student(first), logits),
        0.9 * matched_pairs(*pairs, 8, 0.2),
        source.vaccine.term(teacher, first),
    ]
    assert all(float(part.detach()) for part in parts)
    torch.testing.assert_close(loss, sum(parts))


def test_a_round_of_cmi_keeps_the_images_of_its_lowest_loss(monkeypatch):
    source, _ = opened("cmi")
    original, seen = source._loss, []

    def loss(images, classes, draws):
        found = original(images, classes, draws)
        lowest = (5.0, 3.0, 1.0, 4.0)[len(seen)]  # the third step's, whatever was found
        seen.append((images.detach(), found[1].detach(), found[2].detach()))
        return (found[0] - found[0].detach() + lowest, *found[1:])

    monkeypatch.setattr(source, "_loss", loss)
    source._round(0)
    assert torch.equal(source.pool, torch.from_numpy(pixels(seen[2][0])))
    assert not torch.equal(source.pool, torch.from_numpy(pixels(seen[3][0])))
    assert torch.equal(source.bank.rows[:8], torch.stack(seen[2][1:], 1))
