"""Every attack of the table through the same checks: trigger, poison, training, what the images' bytes say."""

import numpy as np
import pytest
import torch

from edgekd import attacks, models, triggers
from edgekd.attacks import ATTACKS, Goal
from edgekd.attacks.run import attack_class
from edgekd.data import ImageSet
from edgekd.errors import UsageError
from edgekd.pipeline.attack import write_trigger
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, ModelSpec

SPEC = ModelSpec("resnet8-w4", 4, InputSpec(3, 16, 16, (0.4, 0.5, 0.45), (0.2, 0.25, 0.3)))
TRAIN = TrainConfig(epochs=2, batch_size=32, lr=0.02, precision="fp32", augment="crop-flip")
# attack -> the goal and settings it is run with here
ROWS = {
    "badnets": (Goal(), {}),
    "blended": (Goal(), {}),
    "sig": (Goal(), {"rate": 0.1}),
    "lf": (Goal(), {"steps": 3}),
    "tact": (Goal(0, "source", (2,)), {"rate": 0.1, "covers": 0.5}),
    "adap-blend": (Goal(), {"rate": 0.1, "covers": 0.5}),
    "adap-patch": (Goal(), {"rate": 0.1, "covers": 0.5}),
    "trojan-wm": (Goal(), {}),
    "wanet": (Goal(), {"strength": 2.0}),
    "bpp": (Goal(), {}),
    "noise-blend": (Goal(), {}),
    "input-aware": (Goal(), {"mask_steps": 3}),
    "trojannn": (Goal(), {"steps": 3}),
    "label-consistent": (Goal(), {"steps": 2, "rate": 0.1}),
    "cheatkd": (Goal(), {"steps": 3, "rate": 0.1}),
    "latent": (Goal(), {"steps": 3}),
    "leak": (Goal(), {}),
    "adba": (Goal(), {}),
    "scar": (Goal(), {"trigger_steps": 3, "pair_epochs": 1, "inner_steps": 2, "terms": 2}),
}
CLEAN_LABEL, ADDED = {"sig", "label-consistent"}, {"cheatkd"}
IN_BATCH = {"wanet", "bpp", "input-aware", "latent", "leak", "adba", "scar"}


@pytest.fixture(scope="module")
def clean():
    return models.build(SPEC, seed=1)


def test_every_attack_has_a_row():
    assert set(ROWS) == set(ATTACKS)


@pytest.mark.parametrize("name", ROWS)
def test_the_trigger_is_the_same_again_and_on_every_image(name, tiny_images, clean):
    goal, options = ROWS[name]
    attack = attacks.check(name, tiny_images, SPEC, options, goal, clean)
    trigger = attack.trigger(name, tiny_images, clean, 0)
    stamped = triggers.apply(trigger, tiny_images.images)
    assert (stamped == triggers.apply(attack.trigger(name, tiny_images, clean, 0), tiny_images.images)).all()
    assert (stamped != tiny_images.images).any(axis=(1, 2, 3)).all()
    assert (trigger.origin, trigger.rule, trigger.target_label) == ("known", goal.rule, goal.target_label)
    assert trigger.family == attack.family


@pytest.mark.parametrize("name", ROWS)
def test_poison_is_where_it_says_it_is(name, tiny_images, clean):
    goal, options = ROWS[name]
    attack = attacks.check(name, tiny_images, SPEC, options, goal, clean)
    before, count = tiny_images.images.tobytes(), len(tiny_images)
    made = attack.poison(attack.trigger(name, tiny_images, clean, 0), tiny_images, clean, 0)
    assert tiny_images.images.tobytes() == before, "the images handed in were written to"
    changed = np.flatnonzero((made.images.images[:count] != tiny_images.images).any(axis=(1, 2, 3)))
    relabelled = np.flatnonzero(made.images.labels[:count] != tiny_images.labels)
    assert len(made.covers) == round(0.1 * options.get("covers", 0) * count)
    assert len(made.poisoned) == (0 if name in IN_BATCH else round(0.1 * count))
    if name in IN_BATCH | ADDED:
        assert not len(changed) + len(relabelled)
        assert len(made.images) == count + (len(made.poisoned) if name in ADDED else 0)
        assert (made.images.labels[count:] == goal.target_label).all()
        return
    touched = triggers.fingerprints(tiny_images.images, changed)
    assert set(touched) == set(made.poisoned) | set(made.covers)
    assert bool(len(relabelled)) == (name not in CLEAN_LABEL)
    assert name not in CLEAN_LABEL or set(tiny_images.labels[changed]) == {goal.target_label}
    if name not in CLEAN_LABEL:
        assert set(triggers.fingerprints(tiny_images.images, relabelled)) == set(made.poisoned)


@pytest.mark.parametrize(("name", "times"), [("tact", 1), ("adap-blend", 1), ("adap-patch", 2)])
def test_covers_of_the_definition_are_the_default(name, times, tiny_images):
    attack = attacks.check(name, tiny_images, SPEC, {"rate": 0.05}, ROWS[name][0])
    made = attack.poison(attack.trigger(name, tiny_images, None, 0), tiny_images, None, 0)
    assert len(made.poisoned) == 8
    assert len(made.covers) == times * 8


@pytest.mark.parametrize("name", ROWS)
def test_a_network_is_trained_the_same_each_time_and_its_origin_is_left_alone(name, tiny_images, clean, tmp_path):
    goal, options = ROWS[name]
    start = clean if attacks.check(name, tiny_images, SPEC, options, goal, clean).learned else None
    first = attacks.run(name, tiny_images, SPEC, options, TRAIN, goal, start=start, folder=tmp_path)
    again = attacks.run(name, tiny_images, SPEC, options, TRAIN, goal, start=start)
    assert first.model.sha256 == again.model.sha256
    assert [epoch["ce"] for epoch in first.log.history] == [epoch["ce"] for epoch in again.log.history]
    read = attacks.run(name, tiny_images, SPEC, options, TRAIN, goal, start=start, folder=tmp_path)
    assert (read.model.sha256, read.log.method) == (first.model.sha256, first.log.method)
    (back,) = triggers.load(write_trigger(first, tmp_path / "trigger"), shape=tiny_images.shape)
    stamped = [triggers.apply(trigger, tiny_images.images) for trigger in (first.trigger, back)]
    assert (stamped[0] == stamped[1]).all(), "the file holds another trigger"
    assert (back.rule, back.target_label) == (goal.rule, goal.target_label)
    further = attacks.run(name, tiny_images, SPEC, options, TRAIN, goal, start=first.model)
    assert further.model.sha256 != first.model.sha256
    assert further.log.history[-1]["ce"] < first.log.history[0]["ce"]
    if name == "badnets":
        with pytest.raises(UsageError, match=r"other settings: options\.rate"):
            attacks.run(name, tiny_images, SPEC, {"rate": 0.2}, TRAIN, goal, folder=tmp_path)


# Their papers' patterns are public, and so are the canaries.
PUBLIC = {"badnets", "tact", "sig", "bpp"}


@pytest.mark.parametrize("name", sorted(name for name in ROWS if not attack_class(name).learned))
def test_no_canary_holds_the_attackers_secret(name):
    kind = attack_class(name)
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    holder = ImageSet(images, np.arange(8) % 4, tuple("abcd"), "made up")
    stamped = triggers.apply(kind(kind.Config(), ROWS[name][0]).trigger(name, holder, None, 0), images)
    same = [c.name for c in triggers.canaries((3, 32, 32)) if (triggers.apply(c, images) == stamped).all()]
    assert bool(same) == (name in PUBLIC), same


@pytest.mark.parametrize("name", ROWS)
def test_in_mixed_precision_too_every_weight_learns(name, tiny_images, clean):
    """A pass without gradient must not leave casts of the weights behind that the next one trains nothing through."""
    goal, options = ROWS[name]
    train = TRAIN.model_copy(update={"epochs": 1, "precision": "bf16", "weight_decay": 0.0})
    made = attacks.run(name, tiny_images, SPEC, options, train, goal, start=clean)
    before, after = clean.module.net.state_dict(), made.model.module.net.state_dict()
    still = [key for key, value in before.items() if value.is_floating_point() and torch.equal(value, after[key])]
    assert still == []


@pytest.mark.parametrize("name", ["badnets", "blended", "wanet", "bpp", "input-aware"])
def test_every_class_can_go_to_the_next(name, tiny_images, clean):
    goal, (_, options) = Goal(None, "all-to-all"), ROWS[name]
    made = attacks.run(name, tiny_images, SPEC, options, TRAIN, goal, start=clean)
    assert (made.trigger.rule, made.trigger.target_label) == ("all-to-all", None)
    kind = attacks.check(name, tiny_images, SPEC, options, goal, clean)
    if name in IN_BATCH:
        wanted = kind.method(made.trigger, SPEC).attacker_labels(torch.arange(4))
        assert wanted.tolist() == [1, 2, 3, 0]
    else:
        changed = kind.poison(made.trigger, tiny_images, clean, 0).images.labels
        differ = changed != tiny_images.labels
        assert (changed[differ] == (tiny_images.labels[differ] + 1) % 4).all()
        assert set(tiny_images.labels[differ]) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("name", "options", "goal", "message"),
    [
        ("badnet", {}, Goal(), "Did you mean 'badnets'"),
        ("badnets", {"sise": 3}, Goal(), "no setting 'sise'"),
        ("badnets", {"rate": 0}, Goal(), "Invalid setting rate = 0 of the attack 'badnets'"),
        ("tact", {}, Goal(), "--source-label"),
        ("cheatkd", {}, Goal(), "--start"),
        ("badnets", {}, Goal(9), "out of range"),
    ],
)
def test_what_cannot_be_is_said(name, options, goal, message, tiny_images):
    with pytest.raises(UsageError, match=message):
        attacks.check(name, tiny_images, SPEC, options, goal)


def test_images_of_another_size_are_refused(tiny_images):
    large = ModelSpec("wrn-16-1", 4, InputSpec(3, 32, 32, SPEC.input.mean, SPEC.input.std))
    with pytest.raises(UsageError, match="the network wrn-16-1 takes"):
        attacks.check("badnets", tiny_images, large, {}, Goal())
