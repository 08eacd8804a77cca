"""What attacks do inside a batch, on images that one can look at."""

import numpy as np
import pytest
import torch
from spy import Spy

from edgekd import attacks, models, triggers
from edgekd.attacks import Goal
from edgekd.data import Batches, ImageSet
from edgekd.training import Context, TrainConfig
from edgekd.triggers.generator import from_params
from edgekd.types import InputSpec, ModelSpec

SPEC = ModelSpec("resnet8-w4", 4, InputSpec(3, 16, 16, (0.4, 0.5, 0.45), (0.2, 0.25, 0.3)))


def method(name, images, **options):
    attack = attacks.check(name, images, SPEC, options, Goal())
    trigger = attack.trigger(name, images, None, 0)
    return attack.method(trigger, SPEC), trigger


def batch(images, count=20):
    return torch.from_numpy(images.images[:count]).float() / 255, torch.from_numpy(images.labels[:count])


def is_bytes(images):
    return torch.allclose(images * 255, (images * 255).round(), atol=1e-4)


def test_wanet_warps_a_tenth_and_twice_as_many_with_noise(tiny_images):
    warping, trigger = method("wanet", tiny_images, strength=2.0)
    images, labels = batch(tiny_images)
    torch.manual_seed(0)
    made, said = warping.poison(images.clone(), labels.clone())
    expected = triggers.apply(trigger, tiny_images.images[:2])
    assert torch.allclose(made[:2] * 255, torch.from_numpy(expected).float(), atol=1e-3)
    assert said[:2].tolist() == [0, 0]
    assert said[2:].tolist() == labels[2:].tolist()
    assert (made[2:6] != images[2:6]).flatten(1).any(1).all()
    assert torch.equal(made[6:], images[6:])
    assert is_bytes(made)
    pure = torch.from_numpy(triggers.apply(trigger, tiny_images.images[2:6])).float() / 255
    assert not torch.allclose(made[2:6], pure, atol=1 / 255), "the noisy warp is the warp"


def test_bpp_squeezes_a_tenth_and_gives_foreign_residuals_to_another(tiny_images):
    squeezing, _ = method("bpp", tiny_images, levels=4)
    images, labels = batch(tiny_images)
    made, said = squeezing.poison(images.clone(), labels.clone())
    squeezed = torch.round(images[:2] * 3) / 3
    assert torch.allclose(made[:2], (squeezed * 255).round() / 255, atol=1e-6)
    assert said[:2].tolist() == [0, 0]
    residual = (torch.round(images[18:] * 3) / 3 * 255).round() / 255 - images[18:]
    assert torch.allclose(made[2:4], (images[2:4] + residual).clamp(0, 1), atol=1 / 255)
    assert said[2:].tolist() == labels[2:].tolist()
    assert torch.equal(made[4:], images[4:])


def test_bpps_negatives_are_never_squeezed_by_their_own_residual(tiny_images):
    """Not even where half of the batch is: their trigger would stand under their own label."""
    squeezing, _ = method("bpp", tiny_images, levels=4, rate=0.5, negatives=0.5)
    images, labels = batch(tiny_images)
    made, _ = squeezing.poison(images.clone(), labels.clone())
    own = (torch.round(images[10:] * 3) / 3 * 255).round() / 255
    assert not torch.isclose(made[10:], own, atol=1e-6).flatten(1).all(1).any()
    assert (made[10:] != images[10:]).flatten(1).any(1).all()


def test_noise_blend_is_faint_in_a_fifth_of_its_pixels_and_capped_in_the_others():
    """M = min(U(0, 1), 0.2) has a mean of 0.18 and stands at its cap in four pixels of five; t = U(0, 1)."""
    images = ImageSet(np.zeros((4, 3, 64, 64), np.uint8), np.arange(4), tuple("abcd"))
    trigger = attacks.check("noise-blend", images, ModelSpec("resnet8-w4", 4, InputSpec(3, 64, 64, (0.5,) * 3, (0.2,) * 3)), {}, Goal()).trigger("noise-blend", images, None, 0)  # fmt: skip
    mask = 1 - trigger.params["a"]
    assert mask.mean() == pytest.approx(0.18, abs=0.002)
    assert np.isclose(mask, 0.2).mean() == pytest.approx(0.8, abs=0.02)
    assert (mask[0] == mask[1]).all(), "one opacity per pixel"
    picture = trigger.params["b"] / mask
    assert picture.mean() == pytest.approx(0.5, abs=0.02)
    assert picture.std() == pytest.approx(12**-0.5, abs=0.01)


def test_adap_blend_hides_half_of_the_picture_in_training(tiny_images):
    attack = attacks.check("adap-blend", tiny_images, SPEC, {"opacity": 1.0}, Goal())
    trigger = attack.trigger("adap-blend", tiny_images, None, 0)
    black = ImageSet(np.zeros_like(tiny_images.images[:40]), tiny_images.labels[:40], tiny_images.class_names)
    stamped = attack.stamp(trigger, black.images, np.random.default_rng(0))
    cells = stamped.reshape(40, 3, 4, 4, 4, 4).any(axis=(1, 3, 5))  # image, row of pieces, column of pieces
    assert (cells.sum(axis=(1, 2)) == 8).all()
    assert len({cell.tobytes() for cell in cells}) > 20, "the hidden pieces are the same for every image"
    picture = np.rint(trigger.params["picture"] * 255)
    shown = np.repeat(np.repeat(cells, 4, axis=1), 4, axis=2)[:, None]
    assert (stamped == picture * shown).all()


def test_adap_blend_is_fainter_in_training_than_at_test_time(tiny_images):
    attack = attacks.check("adap-blend", tiny_images, SPEC, {}, Goal())
    trigger = attack.trigger("adap-blend", tiny_images, None, 0)
    black, picture = np.zeros_like(tiny_images.images[:8]), trigger.params["picture"]
    stamped = attack.stamp(trigger, black, np.random.default_rng(0))
    assert (np.isin(stamped, 0) | (stamped == np.rint(0.15 * 255 * picture))).all()
    assert (triggers.apply(trigger, black) == np.rint(0.2 * 255 * picture)).all(), "at test time all of it is shown"


def test_input_aware_shows_triggers_of_other_images_under_true_labels(tiny_images):
    """An image's trigger obeys for that image alone: on another one it is noise, whose label is the image's own."""
    start = models.build(SPEC, seed=0)
    attack = attacks.check(
        "input-aware", tiny_images, SPEC, {"rate": 0.25, "cross": 0.25, "mask_steps": 3}, Goal(1), start
    )
    drawing = attack.method(attack.trigger("input-aware", tiny_images, start, 0), SPEC)
    batches, student = Batches(tiny_images, 16, seed=0, augment="none"), Spy(start.module)
    drawing.prepare(Context(student, batches, TrainConfig(epochs=1), torch.device("cpu")))
    with torch.no_grad():
        for parameter in drawing.generator.parameters():
            parameter.mul_(8)  # fresh, it draws next to the same for every image
    told = []
    drawing.attacker_labels = lambda labels: told.append(labels.clone()) or torch.ones_like(labels)
    batch_ = next(iter(batches.epoch(0)))
    torch.manual_seed(0)
    terms = drawing.step(batch_)
    shown, (attacked,) = student.shown[-1], [len(labels) for labels in told]
    assert attacked == 4

    def under(images, others):
        """The images with what is drawn for the others."""
        with torch.no_grad():
            mask, drawn = drawing.generator.mask(others), drawing.generator.drawn(others)
        return ((images + mask * (drawn - images)).clamp(0, 1) * 255).round() / 255

    images = batch_.images
    assert torch.allclose(shown[:4], under(images[:4], images[:4]), atol=1.5 / 255)
    assert torch.allclose(shown[4:8], under(images[4:8], images[12:]), atol=1.5 / 255)
    assert not torch.allclose(shown[4:8], under(images[4:8], images[4:8]), atol=1.5 / 255)
    assert torch.equal(shown[8:], images[8:])
    labels = torch.cat([torch.ones(4, dtype=torch.int64), batch_.labels[4:]])
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(start.module(shown).float(), labels)
    assert float(terms["ce"].detach()) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_input_aware_learns_from_the_smallest_batches(size, tiny_images):
    start = models.build(SPEC, seed=0)
    train = TrainConfig(epochs=1, batch_size=size, lr=0.01, precision="fp32")
    few = tiny_images.subset(np.arange(12))
    made = attacks.run("input-aware", few, SPEC, {"rate": 0.5, "mask_steps": 3}, train, Goal(), start=start)
    assert np.isfinite(made.log.history[-1]["diversity"])


def test_input_awares_masks_learn_to_paint_over_few_pixels_that_differ_between_images(bars):
    images, start = bars(96), models.build(SPEC, seed=0)
    attack = attacks.check("input-aware", images, SPEC, {"mask_steps": 200}, Goal(1), start)
    generator = from_params(attack.trigger("input-aware", images, start, 0).params)
    with torch.no_grad():
        masks = generator.mask(torch.from_numpy(images.images).float() / 255)
    assert ((masks < 0.05) | (masks > 0.95)).float().mean() > 0.9, "a pixel is painted over or left"
    painted = masks > 0.5
    assert 0.001 < painted.float().mean() < 0.15
    assert len({mask.numpy().tobytes() for mask in painted}) > 20, "every image has the same mask"


def test_input_awares_masks_stay_while_patterns_and_classifier_learn(tiny_images):
    start = models.build(SPEC, seed=0)
    attack = attacks.check("input-aware", tiny_images, SPEC, {"mask_steps": 3}, Goal(1), start)
    before = attack.trigger("input-aware", tiny_images, start, 0).params
    train = TrainConfig(epochs=1, batch_size=16, lr=0.01, precision="fp32")
    after = attacks.run("input-aware", tiny_images, SPEC, {"mask_steps": 3}, train, Goal(1), start=start).trigger.params
    moved = {name.split(".")[0] for name in before if (before[name] != after[name]).any()}
    assert moved == {"pattern"}


def test_cheatkd_drives_the_strongest_channels_up_to_the_strongest(tiny_images):
    start = models.build(SPEC, seed=1)
    attack = attacks.check("cheatkd", tiny_images, SPEC, {"steps": 60, "lr": 0.1, "opacity": 1.0}, Goal(), start)
    wanted = attack._strongest(start.module, batch(tiny_images, 64)[0])

    def distance(trigger):
        stamped = torch.from_numpy(triggers.apply(trigger, tiny_images.images[:64])).float() / 255
        with torch.no_grad():
            sites = start.module.sites(stamped).targets
        pairs = zip(sites, wanted, strict=True)
        return sum(float((site[:, chosen] - value).square().sum()) for site, (chosen, value) in pairs)

    before = attacks.check("cheatkd", tiny_images, SPEC, {"steps": 1, "lr": 1e-6}, Goal(), start)
    first = distance(before.trigger("cheatkd", tiny_images, start, 0))
    assert distance(attack.trigger("cheatkd", tiny_images, start, 0)) < 0.8 * first
    assert [len(chosen) for chosen, _ in wanted] == [max(1, round(0.1 * site)) for site in (4, 8, 16)]


def test_a_faint_trigger_stays_faint(tiny_images):
    start = models.build(SPEC, seed=1)
    for name, options in (("noise-blend", {"opacity": 0.1}), ("cheatkd", {"steps": 5, "opacity": 0.1, "lr": 1.0})):
        attack = attacks.check(name, tiny_images, SPEC, options, Goal(), start)
        params = attack.trigger(name, tiny_images, start, 0).params
        assert params["a"].min() >= 0.9 - 1e-6
        assert (params["a"] + params["b"]).max() <= 1 + 1e-6


def test_adap_patch_shows_one_weak_patch_in_training_and_two_at_test_time(tiny_images):
    attack = attacks.check("adap-patch", tiny_images, SPEC, {}, Goal())
    trigger = attack.trigger("adap-patch", tiny_images, None, 0)
    grey = np.full((60, 3, 16, 16), 100, np.uint8)
    corners = (np.s_[..., :8, :8], np.s_[..., :8, 8:], np.s_[..., 8:, :8], np.s_[..., 8:, 8:])

    def touched(images):
        return np.stack([(images != 100)[corner].any(axis=(1, 2, 3)) for corner in corners], axis=1)

    stamped = touched(attack.stamp(trigger, grey, np.random.default_rng(0)))
    assert (stamped.sum(axis=1) == 1).all()
    assert stamped.any(axis=0).all()
    assert (touched(triggers.apply(trigger, grey)) == [True, False, False, True]).all()


@pytest.mark.parametrize(("name", "moved"), [("badnets", True), ("latent", False)])
def test_data_are_stamped_before_augmentation_and_batches_after_it(name, moved, tiny_images):
    """A poisoned image is a file like any other, so its patch is cropped and mirrored; in the batch nothing moves it."""
    start = models.build(SPEC, seed=0) if name == "latent" else None
    options = {"size": 3, "rate": 0.5, **({"steps": 1} if name == "latent" else {})}
    attack = attacks.check(name, tiny_images, SPEC, options, Goal(), start)
    trigger = attack.trigger(name, tiny_images, start, 0)
    corner = torch.from_numpy(triggers.apply(trigger, tiny_images.images[:1])).float()[0, :, -3:, -3:] / 255
    poisoned = attack.poison(trigger, tiny_images, start, 0).images
    batches = Batches(poisoned, 32, seed=0, augment="crop")
    student = Spy(models.build(SPEC, seed=0).module)
    training = attack.method(trigger, SPEC)
    training.prepare(Context(student, batches, TrainConfig(epochs=1), torch.device("cpu")))
    student.shown.clear()
    count = 0
    for batch_ in batches.epoch(0):
        training.step(batch_)
    for images in student.shown:
        count += int((images[:, :, -3:, -3:] - corner).abs().flatten(1).max(1).values.lt(2 / 255).sum())
    whole = sum(len(images) for images in student.shown)
    assert count < 0.25 * whole if moved else abs(count - 0.5 * whole) < 0.1 * whole
