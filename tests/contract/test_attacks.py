"""Every attack of the table through the same checks: trigger, poison, training, what the images' bytes say."""

import numpy as np
import pytest

from edgekd import attacks, triggers
from edgekd.attacks import ATTACKS, Goal
from edgekd.errors import UsageError
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, ModelSpec

SPEC = ModelSpec("resnet8-w4", 4, InputSpec(3, 16, 16, (0.4, 0.5, 0.45), (0.2, 0.25, 0.3)))
TRAIN = TrainConfig(epochs=2, batch_size=32, lr=0.02, precision="fp32", augment="crop-flip")
# attack -> the goal and settings it is run with here
ROWS = {
    "badnets": (Goal(), {}),
    "blended": (Goal(), {}),
    "sig": (Goal(), {}),
    "lf": (Goal(), {}),
    "tact": (Goal(0, "source", (2,)), {"cover_rate": 0.05}),
    "adap-blend": (Goal(), {"rate": 0.1, "cover_rate": 0.05}),
    "wanet": (Goal(), {"strength": 2.0}),
    "bpp": (Goal(), {}),
}
CLEAN_LABEL, IN_BATCH = {"sig"}, {"wanet", "bpp"}


def test_every_attack_has_a_row():
    assert set(ROWS) == set(ATTACKS)


@pytest.mark.parametrize("name", ROWS)
def test_the_trigger_is_made_again_from_what_is_said_of_it(name, tiny_images):
    goal, options = ROWS[name]
    attack = attacks.check(name, tiny_images, SPEC, options, goal)
    trigger = attack.trigger(name, tiny_images.shape)
    again = triggers.made(name, attack.family, dict(attack.options()), tiny_images.shape)
    stamped = triggers.apply(trigger, tiny_images.images)
    assert (stamped == triggers.apply(again, tiny_images.images)).all()
    assert (stamped != tiny_images.images).any(axis=(1, 2, 3)).all()
    assert (trigger.origin, trigger.rule, trigger.target_label) == ("known", goal.rule, goal.target_label)


@pytest.mark.parametrize("name", ROWS)
def test_poison_is_where_it_says_it_is(name, tiny_images):
    goal, options = ROWS[name]
    attack = attacks.check(name, tiny_images, SPEC, options, goal)
    before = tiny_images.images.tobytes()
    made = attack.poison(attack.trigger(name, tiny_images.shape), tiny_images, 0)
    assert tiny_images.images.tobytes() == before, "the images handed in were written to"
    changed = np.flatnonzero((made.images.images != tiny_images.images).any(axis=(1, 2, 3)))
    relabelled = np.flatnonzero(made.images.labels != tiny_images.labels)
    if name in IN_BATCH:
        assert not len(changed) + len(relabelled) + len(made.poisoned) + len(made.covers)
        return
    touched = triggers.fingerprints(tiny_images.images, changed)
    assert set(touched) == set(made.poisoned) | set(made.covers)
    assert len(made.poisoned) == round(0.1 * len(tiny_images))
    assert len(made.covers) == round(options.get("cover_rate", 0) * len(tiny_images))
    assert bool(len(relabelled)) == (name not in CLEAN_LABEL)
    if name not in CLEAN_LABEL:
        assert set(triggers.fingerprints(tiny_images.images, relabelled)) == set(made.poisoned)


@pytest.mark.parametrize("name", ROWS)
def test_a_network_is_trained_the_same_each_time_and_its_origin_is_left_alone(name, tiny_images, tmp_path):
    goal, options = ROWS[name]
    first = attacks.run(name, tiny_images, SPEC, options, TRAIN, goal, folder=tmp_path)
    again = attacks.run(name, tiny_images, SPEC, options, TRAIN, goal)
    assert first.model.sha256 == again.model.sha256
    assert [epoch["ce"] for epoch in first.log.history] == [epoch["ce"] for epoch in again.log.history]
    further = attacks.run(name, tiny_images, SPEC, options, TRAIN, goal, start=first.model)
    assert further.model.sha256 != first.model.sha256
    assert further.log.history[-1]["ce"] < first.log.history[0]["ce"]
    if name == "badnets":
        with pytest.raises(UsageError, match=r"another options\.rate"):
            attacks.run(name, tiny_images, SPEC, {"rate": 0.2}, TRAIN, goal, folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "goal", "message"),
    [
        ("badnet", {}, Goal(), "Did you mean 'badnets'"),
        ("badnets", {"sise": 3}, Goal(), "no setting 'sise'"),
        ("badnets", {"rate": 0}, Goal(), "setting rate = 0 of the attack 'badnets' cannot be"),
        ("tact", {}, Goal(), "--source-label"),
    ],
)
def test_what_cannot_be_is_said(name, options, goal, message, tiny_images):
    with pytest.raises(UsageError, match=message):
        attacks.check(name, tiny_images, SPEC, options, goal)


def test_images_of_another_size_are_refused(tiny_images):
    large = ModelSpec("wrn-16-1", 4, InputSpec(3, 32, 32, SPEC.input.mean, SPEC.input.std))
    with pytest.raises(UsageError, match="the network wrn-16-1 takes"):
        attacks.check("badnets", tiny_images, large, {}, Goal())
