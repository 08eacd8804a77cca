"""Adversarial robustness on networks that can be seen through; known broken defences are told; files of INT8."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from edgekd import audit
from edgekd.audit import masking, tiers, under_attack
from edgekd.audit.shipped import eight_bits
from edgekd.audit.trial import Trial
from edgekd.data import ImageSet
from edgekd.errors import UsageError
from edgekd.types import Rate

CLASSES, SIDE = 5, 6
RANDOM = np.random.RandomState(3)
PATTERNS = RANDOM.randint(96, 160, (CLASSES, 3, SIDE, SIDE))
LABELS = np.arange(60, dtype=np.int64) % CLASSES
PIXELS = np.clip(PATTERNS[LABELS] + RANDOM.normal(0, 25, (60, 3, SIDE, SIDE)), 0, 255).astype(np.uint8)
IMAGES = ImageSet(PIXELS, LABELS, tuple("abcde"), "made up")
EPS = 24 / 255


def pair(count=60):
    """Images of two classes, on which cross-entropy and the margin climb the same way."""
    labels = np.arange(count, dtype=np.int64) % 2
    noisy = np.random.RandomState(4).normal(0, 25, (count, 3, SIDE, SIDE))
    pixels = np.clip(PATTERNS[labels] + noisy, 0, 255).astype(np.uint8)
    return ImageSet(pixels, labels, ("a", "b"), "made up")


PAIR = pair()


class Nearest(nn.Module):
    """Logits by the distance to each class's pattern: linear in the pixels, right on almost all images."""

    def __init__(self, scale=6.0, classes=CLASSES):
        super().__init__()
        patterns = torch.from_numpy(PATTERNS[:classes]).float().flatten(1) / 255
        self.weight = nn.Parameter(scale * patterns)
        self.bias = nn.Parameter(-scale * patterns.square().sum(1) / 2)

    def forward(self, images):
        return images.flatten(1) @ self.weight.T + self.bias


def failed(table):
    return {row["check"] for row in table["checks"] if row["passed"] is False}


@pytest.fixture(scope="module")
def honest():
    """The tier quick on a linear network, whose every accuracy can be computed."""
    return audit.robustness(Nearest(classes=2), PAIR, "quick", EPS, name="linear")


def analytic(bound, images=PAIR):
    """Images that no change up to ``bound`` brings across: margin > bound · ‖w_y - w_j‖_1 for every j."""
    net = Nearest(classes=images.num_classes)
    x, y = torch.from_numpy(images.images).float() / 255, torch.from_numpy(images.labels)
    with torch.no_grad():
        logits, own = net(x), net.weight[y]
        safe = torch.ones(len(y), dtype=torch.bool)
        for other in range(images.num_classes):
            gain = bound * (own - net.weight[other]).abs().sum(1)
            margin = logits.gather(1, y[:, None])[:, 0] - logits[:, other]
            safe &= (margin > gain) | (y == other)
    return int(safe.sum())


def test_a_linear_network_is_driven_to_its_analytic_accuracy(honest):
    """Every pixel is further from 0 and 1 than the bound in almost all images."""
    table = honest.table
    assert table["clean"]["hits"] >= 55
    for row in table["curve"]:
        assert abs(row["left"]["hits"] - analytic(row["bound"])) <= 1, row
    assert table["robust"] == table["attacks"][-1]["left"]
    assert any(5 < row["left"]["hits"] < 55 for row in table["curve"])
    assert failed(table) == set()


def test_the_table_says_all_that_a_figure_needs(honest):
    table = honest.table
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert {key: table[key] for key in ("name", "tier", "norm", "images", "seed")} == {
        "name": "linear", "tier": "quick", "norm": "linf", "images": 60, "seed": 0,
    }  # fmt: skip
    assert table["bound"] == EPS
    assert [row["attack"] for row in table["attacks"]] == ["PGD-20", "PGD-20, margin"]
    assert table["attacks"][0]["settings"] == {"steps": 20, "step": 0.25, "restarts": 1, "objective": "cross-entropy"}
    assert table["attacks"][1]["tried"] == table["clean"]["hits"]  # each attack sees all images
    assert [round(255 * row["bound"], 6) for row in table["curve"]] == [3, 6, 12, 24]
    assert {row["check"] for row in table["checks"]} >= {"a huge bound breaks all", "noise is weaker"}
    assert honest.robust == Rate(**table["robust"])


def test_what_was_found_stays_within_the_bound_and_does_what_is_said(honest):
    x = torch.from_numpy(honest.trial.chosen.images).float() / 255
    assert float((honest.found - x).abs().max()) <= EPS + 1e-6
    assert float(honest.found.min()) >= 0
    assert float(honest.found.max()) <= 1
    with torch.no_grad():
        kept = Nearest(classes=2)(honest.found).argmax(1) == torch.from_numpy(honest.trial.chosen.labels)
    assert int(kept.sum()) == honest.robust.hits


def test_the_median_radius_is_that_of_the_analytic_distances(honest):
    radius = honest.table["radius"]
    assert analytic(0.95 * radius) >= 30 - 1
    assert analytic(1.05 * radius) <= 30 + 1


def test_it_is_a_function_of_its_seed_and_draws_every_class_alike():
    tables = [audit.robustness(Nearest(), IMAGES, "smoke", EPS, seed=seed, count=30).table for seed in (0, 0, 1)]
    for table in tables:
        table.pop("seconds")
    assert tables[0] == tables[1]
    assert tables[0]["images_sha256"] != tables[2]["images_sha256"]
    chosen = Trial(IMAGES, "smoke", EPS, count=30).chosen
    assert np.bincount(chosen.labels).tolist() == [6] * 5


@pytest.mark.parametrize("tier", ["standard", "full"])
def test_the_higher_tiers_attack_what_is_left(tier, monkeypatch):
    """With steps cut down, as they are the same attacks."""
    short = {
        "standard": (tiers.apgd_ce(5), tiers.apgd_t(5, 2), tiers.square_of(20)),
        "full": (tiers.apgd_ce(5), tiers.apgd_t(5, 9), tiers.fab_t(8, 9), tiers.square_of(20)),
    }[tier]
    assert [a.name for a in short] == [a.name for a in audit.TIERS[tier].attacks]
    monkeypatch.setitem(audit.TIERS, tier, dataclasses.replace(audit.TIERS[tier], attacks=short))
    monkeypatch.setattr(under_attack, "_beyond", lambda *_: {})
    made = audit.robustness(Nearest(), IMAGES, tier, EPS)
    table, rows = made.table, made.table["attacks"]
    assert [row["tried"] for row in rows[1:]] == [row["left"]["hits"] for row in rows[:-1]]
    assert abs(table["robust"]["hits"] - analytic(EPS, IMAGES)) <= 1
    assert torch.equal(made.survives, Nearest()(made.found).argmax(1) == made.trial.labels)
    assert int(made.survives.sum()) == table["robust"]["hits"]
    assert all(row["alone"] is None for row in rows)


# ---- broken defences ---------------------------------------------------------------------------------------------------


class Sure(Nearest):
    """Logits a thousand times as large: cross-entropy has no slope left."""

    def forward(self, images):
        return 1000 * super().forward(images)


class Softmax(Nearest):
    def forward(self, images):
        return super().forward(images).softmax(1)


class Rounding(Nearest):
    """Pixels rounded to a few levels: a gradient of zero everywhere."""

    def forward(self, images):
        return super().forward((16 * images).round() / 16)


class Chance(Nearest):
    def forward(self, images):
        return super().forward(images + 0.05 * torch.randn_like(images))


class Company(Nearest):
    """As a batch norm in train mode."""

    def forward(self, images):
        return super().forward(images - images.mean(0, keepdim=True))


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (Sure, "gradients are there"),
        (Softmax, "outputs are logits"),
        (Rounding, "gradients are there"),
        (Chance, "the same answer twice"),
        (Company, "each image by itself"),
    ],
)
def test_a_broken_defence_is_told(broken, told):
    assert told in failed(audit.robustness(broken(), IMAGES, "smoke", EPS).table)


def test_saturated_logits_are_told_by_the_margin_and_by_smaller_logits():
    """So large that the slope of cross-entropy is rounded away on most images, not on all."""
    table = audit.robustness(Nearest(scale=150.0), IMAGES, "quick", EPS).table
    assert {"the size of the logits hides nothing", "the margin is not much stronger"} & failed(table)


def test_what_the_tier_missed_is_told_by_more_steps(monkeypatch):
    """Its attacks take one short step; nothing that they left counts as found by them."""
    monkeypatch.setitem(audit.TIERS, "quick", dataclasses.replace(audit.TIERS["quick"], attacks=(tiers.pgd_of(1),)))
    monkeypatch.setattr(under_attack, "HALVINGS", 1)
    monkeypatch.setattr(under_attack, "_by_margin", lambda *_: [])
    made = audit.robustness(Nearest(classes=2), PAIR, "quick", EPS)
    (told,) = [row for row in made.table["checks"] if row["check"] == "more steps find little more"]
    missed = made.robust.hits - analytic(EPS)
    assert missed > 5
    assert told["passed"] is False
    assert abs(int(told["found"].split()[2]) - missed) <= 1


def test_the_curve_is_of_a_fixed_part(monkeypatch):
    monkeypatch.setattr("edgekd.audit.trial.SEVERAL", 20)
    monkeypatch.setattr(under_attack, "HALVINGS", 1)
    made = audit.robustness(Nearest(classes=2), PAIR, "quick", EPS)
    part = PAIR.subset(made.trial.several.numpy())
    assert len(part) == 20
    for row in made.table["curve"]:
        assert row["left"]["total"] == 20
        assert abs(row["left"]["hits"] - analytic(row["bound"], part)) <= 1


def test_what_the_margin_adds_is_told_in_the_higher_tiers(monkeypatch):
    short = (tiers.apgd_ce(3), tiers.apgd_t(5, 2), tiers.square_of(5))
    monkeypatch.setitem(audit.TIERS, "standard", dataclasses.replace(audit.TIERS["standard"], attacks=short))
    monkeypatch.setattr(under_attack, "HALVINGS", 1)
    table = audit.robustness(Nearest(scale=150.0), IMAGES, "standard", EPS, count=30).table
    rows = {row["attack"]: row for row in table["attacks"]}
    (told,) = [row for row in table["checks"] if row["check"] == "the margin is not much stronger"]
    assert told["passed"] is False, "and so do smaller logits"
    assert masking.SIZE in failed(table)
    assert rows["APGD-T"]["broken"] == 30
    share = {name: rows[name]["left"]["hits"] / 30 for name in ("APGD-CE", "APGD-T")}
    assert told["found"] == f"cross-entropy leaves {share['APGD-CE']:.1%}, the margin {share['APGD-T']:.1%}"
    monkeypatch.setattr(masking, "thorough", lambda *_: [])
    table = audit.robustness(Nearest(scale=150.0), IMAGES, "standard", EPS, count=30).table
    (told,) = [row for row in table["checks"] if row["check"] == "the margin is not much stronger"]
    assert told["passed"] is None, "a second attack breaks some honest networks too: told, not failed"


def test_a_network_without_gradients_is_asked_and_said_to_be():
    def blind(images):
        with torch.no_grad():
            return Nearest()(images)

    table = audit.robustness(blind, IMAGES, "smoke", EPS).table
    assert [row["attack"] for row in table["attacks"]] == ["Square"]
    assert failed(table) == {"gradients are there"}
    assert table["robust"]["hits"] < table["clean"]["hits"]


def test_checks_from_figures():
    def passed(check):
        return check["passed"]

    assert passed(masking.one_step(0.5, 0.5, 1000))
    assert not passed(masking.one_step(0.5, 0.51, 1000))
    assert passed(masking.falling([(0.01, 0.6), (0.02, 0.601)], 1000))
    assert not passed(masking.falling([(0.01, 0.6), (0.02, 0.62)], 1000))
    assert "2.55/255: 60.0%" in masking.falling([(0.01, 0.6)], 1000)["found"]
    assert passed(masking.by_margin(0.5, 0.46))
    assert passed(masking.by_margin(0.55, 0.5))  # which floats find a little more than it is
    assert not passed(masking.by_margin(0.5, 0.44))
    assert masking.by_margin(0.5, 0.4, saturated=False)["passed"] is None
    assert passed(masking.by_margin(0.5, 0.5, saturated=False))
    assert masking.at_least(0, 10, 0.01) == 1
    assert masking.at_least(2, 3, 0.1) == pytest.approx(3 * 0.01 * 0.9 + 0.001)
    assert [passed(masking.more_steps(n, 50, 100)) for n in (0, 3, 4)] == [True, True, False]
    assert [passed(masking.more_steps(n, 50, 60)) for n in (2, 3)] == [True, False]
    assert "breaks 3 of 50 images that withstood" in masking.more_steps(3, 50, 100)["found"]
    assert passed(masking.by_queries(5, 1000))
    assert not passed(masking.by_queries(6, 1000))
    assert passed(masking.by_queries(2, 100))  # two images are no difference


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ({"tier": "quikc"}, "Did you mean 'quick'"),
        ({"bound": 8.0}, "8/255"),
        ({"images": IMAGES.subset([])}, "no image"),
    ],
)
def test_what_cannot_be_attacked_is_refused(how, word):
    given = {"images": IMAGES, "tier": "smoke", "bound": EPS, **how}
    with pytest.raises(UsageError, match=word):
        audit.robustness(Nearest(), given["images"], given["tier"], given["bound"])


# ---- files -----------------------------------------------------------------------------------------------------------


class Coarse(Nearest):
    """The same network with coarsely rounded weights and inputs; gradients pass straight through."""

    def forward(self, images):
        passed = images + ((40 * images).round() / 40 - images).detach()
        return super().forward(passed)


def test_a_file_is_judged_by_its_own_answers_and_the_worst_counts():
    said = []

    def file(images):
        assert not torch.is_grad_enabled()
        return Coarse()(images)

    copy = audit.robustness(Coarse(), IMAGES, "smoke", EPS, name="copy")
    network = audit.robustness(Nearest(), IMAGES, "smoke", EPS, name="network")
    made = audit.robustness_of_file(
        file, IMAGES, "smoke", EPS, copy=copy, network=network, name="file",
        progress=lambda what, done, total, figures: said.append(what),
    )  # fmt: skip
    rows = {row["attack"]: row for row in made.table["attacks"]}
    assert list(rows) == [
        "examples of copy", "examples of copy, 8 bits", "examples of network", "examples of network, 8 bits", "Square",
    ]  # fmt: skip
    # what breaks the copy breaks the file, as they compute the same
    assert rows["examples of copy"]["alone"] == copy.table["robust"]
    assert made.robust.hits <= min(row["alone"]["hits"] for name, row in rows.items() if name != "Square")
    assert int(made.survives.sum()) == made.robust.hits
    assert failed(made.table) == set()
    assert made.table["disagreement"]["copy"]["hits"] == 0
    assert "file: Square" in said
    x = torch.from_numpy(PIXELS).float() / 255
    with torch.no_grad():
        kept = Coarse()(made.found).argmax(1) == torch.from_numpy(LABELS)
    assert int(kept.sum()) == made.robust.hits
    assert float((made.found - x).abs().max()) <= EPS + 1e-6


def test_a_file_that_seems_to_resist_is_told():
    """Its copy has other scales, so that examples do not carry over; its own steps hide the slopes."""
    network = audit.robustness(Nearest(), IMAGES, "smoke", EPS, name="network")
    other = Nearest()
    with torch.no_grad():
        other.weight.copy_(other.weight.roll(1, 0))
        other.bias.copy_(other.bias.roll(1, 0))
    copy = audit.robustness(other, IMAGES, "smoke", EPS, name="copy")

    def resists(images):
        with torch.no_grad():
            return Nearest()((images * 3).round() / 3)

    table = audit.robustness_of_file(resists, IMAGES, "smoke", 4 / 255, copy=copy, network=network).table
    assert "the copy gives the file's labels" in failed(table)
    alone = audit.robustness_of_file(resists, IMAGES, "smoke", EPS, copy=None, network=network).table
    assert "gradients are there" in failed(alone)
    fewer = audit.robustness(Nearest(), IMAGES, "smoke", EPS, count=30)
    with pytest.raises(UsageError, match="same images"):
        audit.robustness_of_file(resists, IMAGES, "smoke", EPS, copy=fewer)


def test_examples_are_rounded_within_the_bound():
    near = torch.tensor([10.0, 100.0, 250.0, 0.0]) / 255
    found = near + torch.tensor([2.4, -2.4, 2.6, 2.6]) / 255
    assert (255 * eight_bits(found, near, 2.6 / 255)).tolist() == pytest.approx([12, 98, 252, 2], abs=1e-4)
    assert (255 * eight_bits(found, near, 8 / 255)).tolist() == pytest.approx([12, 98, 253, 3], abs=1e-4)
