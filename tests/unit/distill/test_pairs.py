"""Sites of two networks side by side: pairing, pooling, margins, connectors."""

import numpy as np
import pytest
import torch
from small_teacher import context, model

from edgekd.distill import overhaul
from edgekd.distill.features import Connectors, Pair, empirical_margins, pair_sites, pooled, sample
from edgekd.distill.overhaul import Overhaul, OverhaulSettings
from edgekd.losses import gaussian_margin


def maps(*shapes):
    return [torch.zeros(2, *shape) for shape in shapes]


def test_pairs_are_made_from_the_deepest_backwards_at_the_smaller_size():
    pairs = pair_sites(maps((8, 16, 16), (16, 8, 8), (32, 4, 4)), maps((4, 10, 6), (6, 2, 8)))
    assert pairs == (Pair(1, 0, 16, 4, (8, 6)), Pair(2, 1, 32, 6, (2, 4)))
    assert [pair.elements for pair in pairs] == [16 * 48, 32 * 8]
    assert len(pair_sites(maps((8, 4, 4)), maps((4, 16, 16), (4, 8, 8), (4, 4, 4)))) == 1
    assert pair_sites(maps((5,)), maps((4, 3, 3))) == (Pair(0, 0, 5, 4, (1, 1)),)


def test_the_larger_map_is_averaged_down():
    feature = torch.arange(16.0).view(1, 1, 4, 4)
    assert pooled(feature, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pooled(feature, (4, 4)) is feature
    assert pooled(torch.ones(3, 7), (1, 1)).shape == (3, 7, 1, 1)


def test_empirical_margins_are_numpys():
    batches = [torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    for batch in batches:
        batch[:, 1] = batch[:, 1].abs()  # nothing below zero: margin 0
    array = np.concatenate([batch.numpy() for batch in batches])
    (margin,) = empirical_margins([batch] for batch in batches)
    for channel in (0, 2):
        values = array[:, channel]
        assert float(margin[channel]) == pytest.approx(values[values < 0].mean(), rel=1e-5)
    assert float(margin[1]) == 0


def test_connectors_start_as_the_paper_says_and_the_same_every_time():
    pairs = (Pair(0, 0, 256, 64, (8, 8)),)
    one, two, other = (Connectors(pairs, [torch.zeros(256)], seed) for seed in (1, 1, 2))
    weight = one.paths[0][0].weight
    assert weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.05)
    assert one.paths[0][0].bias is None
    assert torch.equal(weight, two.paths[0][0].weight)
    assert not torch.equal(weight, other.paths[0][0].weight)
    assert one(0, torch.zeros(2, 64, 8, 8)).shape == (2, 256, 8, 8)


def test_a_sample_is_about_as_large_as_asked_and_always_the_same(tiny_images):
    batches = context(model("resnet8-w4"), tiny_images).batches
    assert [len(images) for images in sample(batches, 60)] == [32, 32]
    assert sum(len(images) for images in sample(batches, 10_000)) == 160
    assert torch.equal(next(sample(batches, 1)), next(sample(batches, 1)))


def test_gaussian_margins_are_taken_where_a_norm_makes_the_target(tiny_images):
    teacher = model("preactresnet18")  # norms at three of its four sites
    norms = teacher.module.site_norms()
    both = []
    for margins in ("gaussian", "empirical"):
        method = Overhaul(OverhaulSettings(margins=margins, margin_images=32), teacher.module)
        method.prepare(context(model("resnet8-w4"), tiny_images))
        both.append([method.connectors.margin(index) for index in range(3)])
        found = [site["margins"] for site in method.report["sites"]]
        assert found == (["gaussian", "gaussian", "empirical"] if margins == "gaussian" else ["empirical"] * 3)
    assert [pair.teacher for pair in method.pairs] == [1, 2, 3]
    for index in (0, 1):
        expected = gaussian_margin(norms[index + 1].weight, norms[index + 1].bias)
        torch.testing.assert_close(both[0][index], expected.detach())
        assert not torch.equal(both[0][index], both[1][index])
    assert torch.equal(both[0][2], both[1][2])


def test_the_report_says_what_beta_means_per_element(tiny_images):
    method = Overhaul(OverhaulSettings(beta=0.5, scale="none"), model("wrn-10-1").module)
    method.prepare(context(model("resnet8-w4"), tiny_images))
    sites = method.report["sites"]
    assert [site["size"] for site in sites] == [[16, 16], [8, 8], [4, 4]]
    assert sites[0]["weight_of_element_mean"] == 0.5 * 0.25 * 16 * 256
    assert sites[2]["weight_of_element_mean"] == 0.5 * 64 * 16


def test_margins_are_part_of_what_a_checkpoint_holds(tiny_images):
    method = Overhaul(OverhaulSettings(), model("wrn-10-1").module)
    method.prepare(context(model("resnet8-w4"), tiny_images))
    assert {"margin0", "margin1", "margin2"} <= method.modules()[0].state_dict().keys()
    assert not any(name.startswith("margin") for name, _ in method.modules()[0].named_parameters())


@pytest.mark.parametrize(("beta", "pixels", "expected"), [("auto", 256, 1e-3), ("auto", 255, 1e-4), (0.5, 255, 0.5)])
def test_beta_by_itself_is_the_papers_for_the_images_size(tiny_images, monkeypatch, beta, pixels, expected):
    monkeypatch.setattr(overhaul, "SMALL", pixels)  # the images have 256 pixels
    method = Overhaul(OverhaulSettings(beta=beta), model("wrn-10-1").module)
    method.prepare(context(model("resnet8-w4"), tiny_images))
    assert method.report["beta"] == expected


@pytest.mark.parametrize(("fade", "shares"), [("cosine", [1, 0.8536, 0.5, 0.1464]), ("none", [1, 1, 1, 1])])
def test_the_feature_term_fades_over_the_epochs(tiny_images, fade, shares):
    method = Overhaul(OverhaulSettings(fade=fade), model("wrn-10-1").module)
    place = context(model("resnet8-w4"), tiny_images, epochs=4)
    method.prepare(place)
    batch, found = next(iter(place.batches.epoch(0))), []
    for epoch in range(4):
        method.start_epoch(epoch)
        found.append(float(method.step(batch)["features"].detach()))
    assert [value / found[0] for value in found] == pytest.approx(shares, abs=1e-4)


@pytest.mark.parametrize(("few", "said"), [(160, "cosine"), (161, "none")])
def test_by_itself_it_fades_only_where_images_are_many(tiny_images, monkeypatch, few, said):
    monkeypatch.setattr(overhaul, "FEW", few)
    method = Overhaul(OverhaulSettings(), model("wrn-10-1").module)
    place = context(model("resnet8-w4"), tiny_images, epochs=4)
    assert len(place.batches.labels) == 160
    method.prepare(place)
    method.start_epoch(3)
    assert method.report["fade"] == said
    assert (method.share < 0.2) is (said == "cosine")


def test_a_relative_distance_does_not_grow_with_the_teachers_features(tiny_images):
    """cnn3 has no norm: its features may be of any size, and with them the paper's distance."""
    students, divided = {}, {}
    for factor in (1.0, 10.0):
        teacher = model("cnn3")
        first = next(part for part in teacher.module.modules() if isinstance(part, torch.nn.Conv2d))
        with torch.no_grad():
            first.weight *= factor
            first.bias *= factor
        for scale in ("none", "target", "auto"):
            method = Overhaul(OverhaulSettings(scale=scale, margin_images=64), teacher.module)
            student = model("resnet8-w4")
            prepared = context(student, tiny_images)
            method.prepare(prepared)
            method.connectors.eval()
            batch = next(iter(prepared.batches.epoch(0)))
            students[factor, scale] = float(method.step(batch)["features"].detach())
            divided[factor, scale] = [site["divided_by"] for site in method.report["sites"]]
    assert students[10.0, "none"] > 5 * students[1.0, "none"]
    assert 0.2 < students[10.0, "target"] / students[1.0, "target"] < 2
    for factor in (1.0, 10.0):
        assert set(divided[factor, "none"]) == {1.0}
        assert divided[factor, "auto"] == [max(square, 1.0) for square in divided[factor, "target"]]
    assert min(divided[1.0, "target"]) < 1 < max(divided[10.0, "target"])  # both sides of the rule are seen
