"""A nasty teacher: what it is driven away from, how far, and what that does to its outputs."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgekd import audit, distill, models
from edgekd.attacks import ATTACKS, SABOTAGE, nasty
from edgekd.attacks.nasty import Nasty, NastySettings
from edgekd.data import Batches, ImageSet
from edgekd.errors import UsageError
from edgekd.runners.torch import TorchRunner
from edgekd.training import Context, TrainConfig
from edgekd.types import InputSpec, Model, ModelSpec

SPEC = ModelSpec("resnet8-w4", 4, InputSpec(3, 16, 16, (0.4, 0.5, 0.45), (0.2, 0.25, 0.3)))
TRAIN = TrainConfig(epochs=2, batch_size=32, lr=0.05, precision="fp32", augment="none")


@pytest.fixture(scope="module")
def normal(tiny_images):
    return distill.run(None, SPEC, tiny_images, "scratch", {}, TRAIN.model_copy(update={"epochs": 6}))[0]


def ready(images, normal, **settings):
    method = Nasty(NastySettings(**settings), copy.deepcopy(normal.module).eval())
    student, batches = models.build(SPEC, seed=3).module, Batches(images, 32, augment="none")
    method.prepare(Context(student, batches, TRAIN, torch.device("cpu")))
    student.eval()
    return method, next(batches.epoch(0))


def kl(first, second):
    """KL(first ‖ second) of rows of logits, in numpy."""
    p, q = (np.exp(z - z.max(1, keepdims=True)) for z in (first, second))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return float((p * np.log(p / q)).sum(1).mean())


def test_it_is_driven_away_by_the_divergence_of_its_own_outputs_from_the_normal_ones(tiny_images, normal):
    method, batch = ready(tiny_images, normal, weight=0.3, temperature=2.0)
    terms = method.step(batch)
    with torch.no_grad():
        own, said = (
            network(batch.images).numpy().astype(np.float64) / 2 for network in (method.student, method.normal)
        )
    assert terms["nasty"].item() == pytest.approx(-0.3 * 4 * kl(own, said), rel=1e-4)
    assert kl(own, said) != pytest.approx(kl(said, own), rel=0.05)
    assert terms["ce"].item() == pytest.approx(
        F.cross_entropy(torch.from_numpy(2 * own), batch.labels).item(), rel=1e-4
    )
    terms["nasty"].backward()
    assert max(float(p.grad.abs().max()) for p in method.student.parameters()) > 0
    assert all(p.grad is None for p in method.normal.parameters())


def test_beyond_the_cap_it_is_driven_no_further_and_gradients_are_clipped(tiny_images, normal):
    method, batch = ready(tiny_images, normal, cap=1e-6, temperature=2.0, weight=1.0)
    terms = method.step(batch)
    assert terms["nasty"].item() == pytest.approx(-4e-6)
    terms["nasty"].backward()
    assert all(p.grad is None or not p.grad.abs().max() for p in method.student.parameters())
    for parameter in method.student.parameters():
        parameter.grad = torch.full_like(parameter, 10.0)
    done = []
    method.update(lambda: done.append(1))
    assert torch.stack([p.grad.norm() for p in method.student.parameters()]).norm().item() == pytest.approx(5, rel=1e-3)
    assert done == [1]


def bumps(count, seed):
    """Pictures of eight classes, each a bright bar that its neighbours' overlap: there is something to say beside the label."""
    random, labels = np.random.default_rng(seed), np.arange(count, dtype=np.int64) % 8
    centres = 2 * labels[:, None] + 0.5 + random.normal(0, 0.5, (count, 1))
    bars = np.exp(-(((np.arange(16)[None] - centres) / 2) ** 2))
    pixels = 40 + 150 * bars[:, None, :, None] + random.normal(0, 25, (count, 3, 16, 16))
    return ImageSet(np.clip(pixels, 0, 255).astype(np.uint8), labels, tuple("abcdefgh"), "made up")


def test_it_drifts_away_from_the_normal_network_and_keeps_its_accuracy():
    images, test, spec = bumps(256, 0), bumps(160, 1), dataclasses.replace(SPEC, num_classes=8)
    train = TRAIN.model_copy(update={"epochs": 8})
    normal, _ = distill.run(None, spec, images, "scratch", {}, train.model_copy(update={"epochs": 4}))
    found = {}
    for weight, epochs in ((0.0, 2), (0.4, 8)):
        options = {"weight": weight, "fresh": False}
        made, log = nasty.run(images, normal, options, train.model_copy(update={"epochs": epochs}))
        found[weight] = audit.teaching(TorchRunner(made), TorchRunner(normal), test)
    assert log.history[-1]["nasty"] < 5 * log.history[0]["nasty"] < 0, "further and further"
    assert found[0.4]["correlation"] < found[0.0]["correlation"] - 0.15
    assert found[0.0]["suspicious"] is False
    assert found[0.4]["acc"] > 0.8


def test_it_goes_on_where_it_was_stopped_and_leaves_the_normal_network_alone(tiny_images, normal, tmp_path):
    before = models.weights_sha256(normal.module.state_dict())
    whole, _ = nasty.run(tiny_images, normal, {}, TRAIN)

    class Killed(BaseException):
        pass

    def dying(what, done, total, figures):
        if done > 6:
            raise Killed

    with pytest.raises(Killed):
        nasty.run(tiny_images, normal, {}, TRAIN, folder=tmp_path, progress=dying)
    made, log = nasty.run(tiny_images, normal, {}, TRAIN, folder=tmp_path)
    assert (log.resumed_at, made.sha256) == (1, whole.sha256)
    assert models.weights_sha256(normal.module.state_dict()) == before
    assert whole.sha256 != nasty.run(tiny_images, normal, {"fresh": False}, TRAIN)[0].sha256
    with pytest.raises(UsageError, match=r"other settings: options\.weight"):
        nasty.run(tiny_images, normal, {"weight": 0.2}, TRAIN, folder=tmp_path)


def test_what_cannot_be_is_said(tiny_images, normal):
    assert not set(ATTACKS) & set(SABOTAGE)
    with pytest.raises(UsageError, match=r"no setting .wieght.\. Did you mean .weight."):
        nasty.run(tiny_images, normal, {"wieght": 1}, TRAIN)
    larger = ImageSet(np.zeros((8, 3, 32, 32), np.uint8), np.zeros(8, np.int64), tuple("abcd"), "made up")
    with pytest.raises(UsageError, match="the network resnet8-w4 takes"):
        nasty.run(larger, normal, {}, TRAIN)
    with pytest.raises(UsageError, match="no weights to train"):
        nasty.run(tiny_images, Model(SPEC, torch.nn.Identity()), {}, TRAIN)
