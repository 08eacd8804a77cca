"""CRD: what it keeps of every image, what it draws, and that it does what a contrast is for."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_teacher import context, model, spec

from edgekd import distill
from edgekd.data import Batches
from edgekd.distill.crd import ContrastiveDistillation, ContrastiveDistillationSettings
from edgekd.errors import UsageError
from edgekd.losses import soft_target_kl
from edgekd.training import TrainConfig, fit


def ready(images, seed=0, **options):
    """A prepared method, its student in evaluation mode so that a step leaves it alone, and a batch."""
    method = ContrastiveDistillation(
        ContrastiveDistillationSettings(**{"dim": 16, **options}), model("wrn-10-1").module
    )
    place = context(model("resnet8-w4", seed=1), images, seed=seed)
    torch.manual_seed(0)
    method.prepare(place)
    return method, next(iter(place.batches.epoch(0)))


@torch.no_grad()
def embedded(method, images):
    return method._embedded(*method.both(images))


def test_the_loss_is_the_formula_over_all_images(tiny_images):
    method, batch = ready(tiny_images)  # 160 images, fewer than the negatives: all count
    s, t = embedded(method, batch.images).double().numpy()
    kept_s, kept_t = method.memory.kept.double().numpy()
    labels, expected = tiny_images.labels, 0.0
    for anchors, kept, noise in ((s, kept_t, method.memory.noise[0]), (t, kept_s, method.memory.noise[1])):
        level = math.exp(noise)
        for anchor, index in zip(anchors, batch.index.tolist(), strict=True):
            e = np.exp(kept @ anchor / 0.07)
            h, other = e / (e + level), labels != labels[index]
            expected -= (math.log(h[index]) + 16384 / other.sum() * np.log(1 - h[other]).sum()) / len(batch.index)
    assert method.step(batch)["features"].item() == pytest.approx(0.8 * expected, rel=1e-4)


def test_the_noise_is_fixed_by_the_first_batch(tiny_images):
    method, batch = ready(tiny_images)
    s, t = embedded(method, batch.images)
    kept_s, kept_t = method.memory.kept
    for side, (anchors, kept) in enumerate(((s, kept_t), (t, kept_s))):
        mean = torch.exp(anchors @ kept.T / 0.07).mean()
        assert float(method.memory.noise[side]) == pytest.approx(math.log(16384 * float(mean)), rel=1e-5)
    before = method.memory.noise.clone()
    method.step(batch)
    assert torch.equal(method.memory.noise, before)


def test_what_is_kept_moves_halfway_and_only_of_the_images_that_were_seen(tiny_images):
    method, batch = ready(tiny_images)
    before, new = method.memory.kept.clone(), embedded(method, batch.images)
    assert torch.allclose(before.norm(dim=2), torch.ones(2, 160), atol=1e-5)
    method.step(batch)
    expected = before.clone()
    expected[:, batch.index] = F.normalize(before[:, batch.index] + new, dim=2)
    torch.testing.assert_close(method.memory.kept, expected)
    assert not torch.equal(method.memory.kept, before)


def test_negatives_are_drawn_of_other_classes_and_count_for_all_that_are_asked(tiny_images):
    method, batch = ready(tiny_images, negatives=40)
    drawn = [method.memory.drawn() for _ in range(50)]
    assert {len(rows) for rows in drawn} == {40}
    assert len(torch.cat(drawn).unique()) == 160  # every image has its turn
    assert not torch.equal(drawn[0], drawn[1])
    # what is kept of the own class is worth nothing: spoiling it changes no loss
    images, own = batch.images[:1], batch.labels[:1]
    losses = []
    for spoil in (False, True):
        rows = method.memory.labels == own
        rows[batch.index[0]] = False  # the positive itself
        if spoil:
            method.memory.kept[:, rows] = F.normalize(torch.ones_like(method.memory.kept[:, rows]), dim=2)
        torch.manual_seed(1)
        losses.append(float(method.memory(embedded(method, images), own, batch.index[:1])))
    assert losses[0] == losses[1]


def test_few_draws_are_all_images_on_average(tiny_images):
    method, batch = ready(tiny_images, negatives=40)
    seen = embedded(method, batch.images)
    draws = [float(method.memory(seen, batch.labels, batch.index)) for _ in range(300)]
    method.memory.drawn = lambda: torch.arange(160)
    everything = float(method.memory(seen, batch.labels, batch.index))
    assert np.mean(draws) == pytest.approx(everything, abs=4 * np.std(draws) / math.sqrt(300))


def test_the_positive_draws_near_and_the_contrast_falls(tiny_images):
    """The card's check: the loss decreases and the similarity of student and teacher rises, above that to others."""
    config = TrainConfig(epochs=8, batch_size=32, lr=0.05, precision="fp32", augment="none")
    teacher, _ = distill.run(None, spec("wrn-10-1"), tiny_images, "scratch", {}, config)
    settings = ContrastiveDistillationSettings(dim=16, negatives=256)
    method = ContrastiveDistillation(settings, teacher.module.requires_grad_(False))
    pixels = torch.from_numpy(tiny_images.images).float() / 255
    apart = torch.from_numpy(tiny_images.labels[:, None] != tiny_images.labels)

    def look(_):
        s, t = embedded(method, pixels)
        return {"similar": float((s * t).sum(1).mean()), "others": float((s @ t.T)[apart].mean())}

    config = config.model_copy(update={"epochs": 16})
    log = fit(
        model("resnet8-w4", seed=1).module, method, Batches(tiny_images, 32, augment="none"), config, validate=look
    )
    first, last = log.history[0], log.history[-1]
    assert last["features"] < 0.5 * first["features"]
    assert last["similar"] > first["similar"] + 0.5
    assert last["similar"] > last["others"] + 0.5


def test_all_that_is_kept_is_in_the_checkpoint_but_the_labels(tiny_images):
    method, _ = ready(tiny_images)
    (memory,) = method.modules()
    assert {"kept", "noise"} <= memory.state_dict().keys()
    assert "labels" not in memory.state_dict()
    assert memory.kept.shape == (2, 160, 16)
    assert ContrastiveDistillation.kept_bytes(method.config, 160) == memory.kept.nbytes
    assert ContrastiveDistillation.kept_bytes(ContrastiveDistillationSettings(), 50_000) == 51_200_000
    assert method.report["kept"] == {"images": 160, "bytes": memory.kept.nbytes}
    assert not any("kept" in name for name in method.student.state_dict())


def test_what_is_kept_starts_from_the_seed(tiny_images):
    one, again, other = (ready(tiny_images, seed=seed)[0].memory for seed in (3, 3, 4))
    assert torch.equal(one.kept, again.kept)
    assert not torch.equal(one.kept, other.kept)
    assert not torch.equal(one.kept[0], one.kept[1])


def test_hintons_term_can_be_added(tiny_images):
    method, batch = ready(tiny_images, kd=1.0, temperature=3)
    with torch.no_grad():
        expected = soft_target_kl(method.student(batch.images), method.teacher(batch.images), 3)
        assert float(method.step(batch)["kd"]) == pytest.approx(float(expected), rel=1e-5)
    assert "kd" not in ready(tiny_images)[0].step(batch)


def test_images_of_one_class_are_refused(tiny_images):
    with pytest.raises(UsageError, match="all of these are of one"):
        ready(tiny_images.subset(np.flatnonzero(tiny_images.labels == 2)))


def test_the_contrast_is_float32_under_autocast(tiny_images):
    method, batch = ready(tiny_images)
    seen = embedded(method, batch.images)
    with torch.autocast("cpu", torch.bfloat16):
        under = method.memory(seen, batch.labels, batch.index)
    assert torch.equal(under, method.memory(seen, batch.labels, batch.index))
