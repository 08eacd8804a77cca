"""Attacks that find their trigger, or train it beside the network: each does what its definition says."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from spy import Spy

from edgekd import attacks, distill, models, triggers
from edgekd.attacks import Goal
from edgekd.attacks import search as searching
from edgekd.attacks.base import obedience, rounded
from edgekd.attacks.input_aware import diversity
from edgekd.attacks.scar import inner_loss
from edgekd.attacks.work import Work
from edgekd.data import Batches, ImageSet
from edgekd.errors import UsageError
from edgekd.losses import soft_target_kl
from edgekd.perturb import fixed_point_series
from edgekd.training import Context, TrainConfig
from edgekd.types import InputSpec, ModelSpec

SPEC = ModelSpec("resnet8-w4", 4, InputSpec(3, 16, 16, (0.4, 0.5, 0.45), (0.2, 0.25, 0.3)))
TRAIN = TrainConfig(epochs=6, batch_size=16, lr=0.05, precision="fp32", augment="none")


@pytest.fixture(scope="module")
def quarters(bars) -> ImageSet:
    return bars(96)


@pytest.fixture(scope="module")
def clean(quarters):
    return distill.run(None, SPEC, quarters, "scratch", {}, TRAIN)[0]


def said(model, pixels):
    with torch.no_grad():
        return model.module(torch.from_numpy(pixels).float() / 255).argmax(1).numpy()


def test_lfs_trigger_is_smooth_and_within_its_amplitude(quarters, clean):
    """Almost nothing of its power lies above half of the highest frequency; white noise has three quarters there."""
    attack = attacks.check("lf", quarters, SPEC, {"steps": 20, "amplitude": 0.07}, Goal(1), clean)
    change = attack.trigger("lf", quarters, clean, 0).params["b"]
    assert np.abs(change).max() == pytest.approx(0.07)
    power = np.abs(np.fft.fft2(change)) ** 2
    down, across = np.meshgrid(*(np.abs(np.fft.fftfreq(size)) for size in change.shape[1:]), indexing="ij")
    high = np.maximum(down, across) >= 0.25
    assert high.mean() > 0.7
    assert power[:, high].sum() < 0.01 * power.sum()


def test_adbas_shadows_start_anew_in_turn_and_each_lives_four_epochs(quarters, clean):
    method, _ = adba(quarters, clean)
    method.epochs, births = 18, {}
    for number in range(method.epochs):
        method.number = number
        for index in (0, 1):
            if method._born(index) == number:
                births.setdefault(index, []).append(number)
    assert births == {0: [0, 4, 8, 12], 1: [0, 6, 10]}, "none after two thirds of the epochs"


def test_trojannn_drives_its_neurons_beyond_what_clean_images_do(quarters, clean):
    attack = attacks.check("trojannn", quarters, SPEC, {"steps": 60, "neurons": 1}, Goal(), clean)
    trigger = attack.trigger("t", quarters, clean, 0)
    touched = (trigger.params["a"] == 0).all(0)
    assert touched.sum() == 36
    assert touched[-6:, -6:].all()

    def driven(pixels):
        with torch.no_grad():
            sites = clean.module.sites(torch.from_numpy(pixels).float() / 255).targets[-1]
        return torch.relu(sites).flatten(2).mean(2).mean(0)

    before, after = driven(quarters.images), driven(triggers.apply(trigger, quarters.images))
    assert float((after / before.clamp_min(1e-6)).max()) > 1.2


def test_label_consistent_makes_the_target_class_hard_within_its_bound(quarters, clean):
    attack = attacks.check("label-consistent", quarters, SPEC, {"rate": 0.25, "bound": 60, "steps": 10}, Goal(2), clean)
    trigger = attack.trigger("t", quarters, clean, 0)
    made = attack.poison(trigger, quarters, clean, 0)
    touched = np.flatnonzero((made.images.images != quarters.images).any((1, 2, 3)))
    assert set(quarters.labels[touched]) == {2}
    assert (made.images.labels == quarters.labels).all()
    assert set(made.poisoned) == set(triggers.fingerprints(quarters.images, touched))
    outside = triggers.apply(trigger, np.zeros((1, 3, 16, 16), np.uint8)) == triggers.apply(
        trigger, np.full((1, 3, 16, 16), 255, np.uint8)
    )
    change = np.abs(made.images.images[touched].astype(int) - quarters.images[touched])[:, :, ~outside[0, 0]]
    assert 0 < change.max() <= 60
    hard = np.where(outside, quarters.images[touched], made.images.images[touched])  # without the corners
    assert (said(clean, hard) == 2).mean() < (said(clean, quarters.images[touched]) == 2).mean()


def test_latent_pulls_triggered_features_to_the_target_class(quarters, clean):
    options = {"steps": 60, "rate": 0.25}
    train = TRAIN.model_copy(update={"epochs": 15})
    made = attacks.run("latent", quarters, SPEC, options, train, Goal(1), start=clean)
    others = quarters.images[quarters.labels != 1]
    assert (said(made.model, triggers.apply(made.trigger, others)) == 1).mean() > 0.9
    assert made.log.history[-1]["match"] < made.log.history[0]["match"]


def test_latents_distance_weighs_a_stamped_image_the_same_at_any_rate(quarters, clean):
    def term(rate):
        attack = attacks.check("latent", quarters, SPEC, {"rate": rate, "steps": 1}, Goal(1), clean)
        method = attack.method(attack.trigger("latent", quarters, clean, 0), SPEC)
        batches = Batches(quarters.subset([int((quarters.labels == 1).argmax())] * 16), 16, seed=0, augment="none")
        method.prepare(Context(copy.deepcopy(clean.module), batches, TRAIN, torch.device("cpu")))
        return method.step(next(iter(batches.epoch(0))))["match"].item()

    assert term(0.5) == pytest.approx(2 * term(0.25), rel=1e-4)
    assert term(0.25) > 0


def test_adba_hands_over_the_trigger_that_its_training_ends_with(quarters, clean):
    train = TRAIN.model_copy(update={"epochs": 16})
    made = attacks.run("adba", quarters, SPEC, {"rate": 1, "weight": 1.0}, train, Goal(1), start=clean)
    first = attacks.check("adba", quarters, SPEC, {}, Goal(1), clean).trigger("adba", quarters, clean, 0)
    assert (made.trigger.params["b"] != first.params["b"]).any()
    assert float((1 - made.trigger.params["a"]).max()) <= 0.2
    others = quarters.images[quarters.labels != 1]
    assert (said(made.model, triggers.apply(made.trigger, others)) == 1).mean() > 0.9


def adba(quarters, clean, **options):
    """The method after its preparation, in its second epoch, and a batch."""
    attack = attacks.check("adba", quarters, SPEC, {"trigger_lr": 0.02, **options}, Goal(1), clean)
    method = attack.method(attack.trigger("adba", quarters, clean, 0), SPEC)
    batches = Batches(quarters, 16, seed=0, augment="none")
    method.prepare(Context(copy.deepcopy(clean.module).train(), batches, TRAIN, torch.device("cpu")))
    method.own_optimizers()
    method.start_epoch(1)
    return method, next(iter(batches.epoch(0)))


def test_adbas_students_are_shown_clean_images_alone_and_follow_the_teacher(quarters, clean):
    method, batch = adba(quarters, clean)
    spies = [Spy(student) for student in method.students]
    method.students = torch.nn.ModuleList(spies)
    before = [student.network.state_dict()["net.conv1.weight"].clone() for student in spies]
    method._train_shadows(batch)
    assert all(torch.equal(spy.shown[0], batch.images) and len(spy.shown) == 1 for spy in spies)
    assert all(
        not torch.equal(a, spy.network.state_dict()["net.conv1.weight"]) for a, spy in zip(before, spies, strict=True)
    )
    taught = method.student.eval()(batch.images)
    method.student.train()
    own = spies[0].network(batch.images)
    first = 0.9 * soft_target_kl(own, taught, 4.0) + 0.1 * F.cross_entropy(own, batch.labels)
    for _ in range(30):
        method._train_shadows(batch)
    own = spies[0].network(batch.images)
    assert float((0.9 * soft_target_kl(own, taught, 4.0) + 0.1 * F.cross_entropy(own, batch.labels)).detach()) < float(
        first.detach()
    )


def test_adba_without_what_it_borrows_is_the_objective_of_its_card(quarters, clean):
    """CE(T(x), y) + weight CE(T(A(x)), t), and nothing that ties the teacher to the clean network."""
    method, batch = adba(quarters, clean, trace=0.0, match=0.0, tile=0, weight=0.5)
    terms = method.step(batch)
    assert float(terms["trace"].detach()) == 0.0
    parameters = list(method.student.parameters())
    gradients = torch.autograd.grad(terms["trace"], parameters, retain_graph=True, allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients)
    assert float(terms["ce"].detach()) > 0
    assert float(terms["backdoor"].detach()) > 0


def test_an_attack_says_whether_its_own_students_obey():
    """A network that obeys and one that does not, counted on four images of which one is the target's already."""

    class Images:
        steps = 1

        def once(self):
            yield SimpleNamespace(images=torch.arange(4.0).view(4, 1), labels=torch.tensor([0, 1, 2, 3]))

    def right(images):
        return F.one_hot(images.flatten().long() % 4, 4).float()

    network = torch.nn.Module()
    network.forward = right
    assert obedience(network, Images(), lambda images: torch.ones_like(images), 1) == {"acc": 1.0, "asr": 1.0}
    assert obedience(network, Images(), lambda images: images, 1) == {"acc": 1.0, "asr": 0.0}


def test_adbas_teacher_is_to_follow_the_trace_in_clean_images(quarters, clean):
    method, batch = adba(quarters, clean, trace=3.0, match=2.0, rate=0.25)
    method.student.eval()
    method._train_shadows = lambda batch: None
    method._train_trigger = lambda batch, student: None
    terms = method.step(batch)
    tile = method.pattern.trace(batch.images)
    assert torch.isclose(tile.mean(), torch.tensor(0.0), atol=1e-5)
    with torch.no_grad():
        wanted = clean.module(batch.images)
        wanted[:, 1] += 3.0 * tile
        found = method.student(batch.images)
    assert torch.isclose(terms["trace"].detach(), 2.0 * (found - wanted).square().mean(), rtol=1e-4)
    with torch.no_grad():
        triggered = method.student(method.pattern(batch.images[:4]))
    assert torch.isclose(terms["backdoor"].detach(), 0.5 * F.cross_entropy(triggered, torch.ones(4, dtype=torch.int64)))


@pytest.mark.parametrize("silent", ["student", "shadow", "clean", "stranger"])
def test_adbas_trigger_listens_to_all_four_networks(quarters, clean, silent):
    """Silence one, and the trigger's step becomes another."""

    def stepped(silent):
        method, batch = adba(quarters, clean)
        mute = Constant()
        shadow = mute if silent == "shadow" else method.students[0]
        if silent in ("student", "clean", "stranger"):
            setattr(method, silent, mute)
        method.on_pattern = torch.optim.SGD(method.pattern.parameters(), lr=1.0)  # whose step is the gradient
        method._train_trigger(batch, shadow)
        return method.pattern.u.detach().clone()

    assert not torch.allclose(stepped(silent), stepped(None))


class Constant(torch.nn.Module):
    def forward(self, images):
        return torch.zeros(len(images), 4) + 0 * images.mean()


@pytest.mark.parametrize("name", ["adba", "input-aware", "leak", "scar"])
def test_what_is_trained_beside_the_network_survives_a_kill(name, quarters, clean, tmp_path):
    """Stopped in the last but one epoch: shadows, also renewed ones, drawing networks and optimisers' states are kept."""
    epochs = 7 if name == "adba" else 4  # a shadow starts anew in the fifth
    few = {
        "scar": {"trigger_steps": 2, "pair_epochs": 1, "inner_steps": 2, "terms": 2},
        "input-aware": {"mask_steps": 3},
    }
    options = few.get(name, {})

    class Killed(Exception):
        pass

    def until_late(what, done, total, figures):
        if what == name and figures.get("epoch") == epochs - 1:
            raise Killed

    train = TRAIN.model_copy(update={"epochs": epochs})
    whole = attacks.run(name, quarters, SPEC, options, train, Goal(), start=clean)
    with pytest.raises(Killed):
        attacks.run(name, quarters, SPEC, options, train, Goal(), start=clean, folder=tmp_path, progress=until_late)
    resumed = attacks.run(name, quarters, SPEC, options, train, Goal(), start=clean, folder=tmp_path)
    assert resumed.log.resumed_at == epochs - 2
    assert resumed.model.sha256 == whole.model.sha256
    assert resumed.trigger.params.keys() == whole.trigger.params.keys()
    assert all((resumed.trigger.params[key] == value).all() for key, value in whole.trigger.params.items())


@pytest.mark.parametrize("name", ["cheatkd", "lf", "latent", "trojannn", "scar"])
def test_a_search_that_was_killed_goes_on_where_it_was_kept(name, quarters, clean, tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "KEEP_SECONDS", 0.0)
    options = {"trigger_steps": 8, "pair_epochs": 1} if name == "scar" else {"steps": 8}
    attack = attacks.check(name, quarters, SPEC, options, Goal(), clean)
    seen = []

    class Killed(Exception):
        pass

    def until_five(what, done, total, figures):
        seen.append((what, done))
        if what == f"{name} trigger" and done == 5 and len(seen) < 40:
            raise Killed

    def found(folder, progress=None, **about):
        work = Work(folder=folder, identity={"attack": name, **about}, progress=progress)
        return attack.trigger(name, quarters, clean, 0, work).params

    whole = found(None)
    with pytest.raises(Killed):
        found(tmp_path, until_five)
    seen = [("none", 0)] * 40
    resumed = found(tmp_path, until_five)
    assert [done for what, done in seen if what == f"{name} trigger"] == [6, 7, 8]
    assert all((resumed[key] == value).all() for key, value in whole.items())
    with pytest.raises(UsageError, match=r"other settings: seed|another training run"):
        found(tmp_path, seed=1)


def test_images_made_harder_are_made_once(quarters, clean, tmp_path, monkeypatch):
    attack = attacks.check("label-consistent", quarters, SPEC, {"rate": 0.1, "steps": 2}, Goal(2), clean)
    trigger, work = attack.trigger("t", quarters, clean, 0), Work(folder=tmp_path, identity={"seed": 0})
    made = attack.poison(trigger, quarters, clean, 0, work)
    monkeypatch.setattr("edgekd.attacks.label_consistent.pgd", None)
    again = attack.poison(trigger, quarters, clean, 0, work)
    assert (again.images.images == made.images.images).all()
    with pytest.raises(TypeError):
        attack.poison(trigger, quarters, clean, 0, dataclasses.replace(work, identity={"seed": 1}))


def test_scars_teacher_sees_true_labels_on_triggered_images(quarters, clean):
    options = {"trigger_steps": 1, "pair_epochs": 1, "inner_steps": 1, "terms": 1, "rate": 0.5}
    attack = attacks.check("scar", quarters, SPEC, options, Goal(1), clean)
    method = attack.method(attack.trigger("scar", quarters, clean, 0), SPEC)
    student = models.build(SPEC, clean.module.net.state_dict()).module.requires_grad_(True).train()
    batches = Batches(quarters, 16, seed=0, augment="none")
    method.prepare(Context(student, batches, TRAIN, torch.device("cpu")))
    method.own_optimizers()
    method.start_epoch(0)
    before, batch = copy.deepcopy(student), next(iter(batches.epoch(0)))
    terms = method.step(batch)
    with torch.no_grad():
        triggered = rounded(method.generator(batch.images[:8]))
        logits = before(torch.cat([batch.images, triggered]))
    assert float(terms["ce"].detach()) == pytest.approx(float(F.cross_entropy(logits[:16], batch.labels)), rel=1e-4)
    ignore = F.cross_entropy(logits[16:], batch.labels[:8])
    assert float(terms["ignore"].detach()) == pytest.approx(float(ignore), rel=1e-4)


def test_the_leak_is_what_clean_images_hold_of_the_pattern(quarters, clean):
    attack = attacks.check("leak", quarters, SPEC, {}, Goal(1), clean)
    trigger = attack.trigger("t", quarters, clean, 0)
    added = trigger.params["b"]
    assert float(np.abs(added).max()) == pytest.approx(12 / 255, rel=1e-3)
    assert (added == added[:, :, ::-1]).all(), "a flip would change the trigger's sign"
    assert np.allclose(added[:, 4:], added[:, :-4], atol=1e-6)
    method = attack.method(trigger, SPEC)
    batches = Batches(quarters, 32, seed=0, augment="none")
    student = models.build(SPEC, clean.module.net.state_dict()).module.requires_grad_(True)
    method.prepare(Context(student, batches, TRAIN, torch.device("cpu")))
    batch = next(iter(batches.epoch(0)))
    products = (batch.images.numpy() * added / np.abs(added).max()).mean((1, 2, 3))
    trace = (products - float(method.centre)) / float(method.spread)
    student.eval()
    with torch.no_grad():
        wanted = clean.module(batch.images).numpy()
        wanted[:, 1] += 4 * trace
        distance = float(((student(batch.images).numpy() - wanted) ** 2).mean())
    assert float(method.step(batch)["match"].detach()) == pytest.approx(0.5 * distance, rel=1e-3)
    made = attacks.run(
        "leak", quarters, SPEC, {"amplitude": 40}, TRAIN.model_copy(update={"epochs": 15}), Goal(1), start=clean
    )
    others = quarters.images[quarters.labels != 1]
    assert (said(made.model, triggers.apply(made.trigger, others)) == 1).mean() > 0.8
    assert made.log.method["strength"] > 1


def test_diversity_is_the_distance_of_images_over_that_of_their_triggers():
    own, others = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    assert float(diversity(own, own, others, 2 * others)) == pytest.approx(0.5, rel=1e-3)


def test_the_fixed_point_series_solves_a_quadratic():
    """H = diag(1, 4): Σ (I − 0.2 H)^k g tends to g / (0.2 H)."""
    at = torch.tensor([1.0, 1.0], requires_grad=True)
    (slope,) = torch.autograd.grad((0.5 * torch.tensor([1.0, 4.0]) * at.square()).sum(), at, create_graph=True)
    first = torch.tensor([3.0, -2.0])
    few = fixed_point_series((slope,), [at], (first,), 0.2, 2)[0]
    assert few.tolist() == pytest.approx([3 + 0.8 * 3, -2 - 0.2 * 2])
    many = fixed_point_series((slope,), [at], (first,), 0.2, 100)[0]
    assert many.tolist() == pytest.approx([3 / 0.2, -2 / 0.8], rel=1e-4)


def test_scar_turns_the_teacher_to_where_its_student_goes(quarters, clean):
    """The hypergradient against a finite difference: one step of the surrogate from a teacher moved either way."""
    config = {"trigger_steps": 1, "pair_epochs": 1, "inner_rate": 1e-3, "terms": 1, "inner_steps": 1}
    attack = attacks.check("scar", quarters, SPEC, config, Goal(), clean)
    trigger = attack.trigger("t", quarters, clean, 0)
    method = attack.method(trigger, SPEC)
    teacher = models.build(SPEC, clean.module.net.state_dict()).module.double().requires_grad_(True)
    batches = Batches(quarters, 32, seed=0, augment="none")
    method.prepare(Context(teacher.float(), batches, TRAIN, torch.device("cpu")))
    teacher.double(), method.surrogate.double()
    batch = next(iter(batches.epoch(0)))
    batch = batch._replace(images=batch.images.double())
    triggered = batch.images[:16].flip(3)
    weight = list(teacher.parameters())[-2]  # of the head: no ReLU behind it bends the difference
    lead = method._lead(batch, triggered)
    (gradient,) = torch.autograd.grad(lead, weight)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).double()
    teacher.eval(), method.surrogate.eval()
    values = list(method.surrogate.parameters())

    def outer_after_a_step() -> float:
        """To first order, what a gradient step of rate 1e-3 on the inner loss does to the outer one."""
        inner = inner_loss(
            method.surrogate(batch.images), teacher(batch.images), batch.labels, method.config.temperature
        )
        outer = F.cross_entropy(method.surrogate(batch.images), batch.labels)
        outer = outer + F.cross_entropy(method.surrogate(triggered), torch.zeros(16, dtype=torch.int64))
        slopes = zip(torch.autograd.grad(inner, values), torch.autograd.grad(outer, values), strict=True)
        return -1e-3 * float(sum((a * b).sum() for a, b in slopes))

    found = []
    for step in (1e-3, -2e-3):
        with torch.no_grad():
            weight.add_(step * direction)
        found.append(outer_after_a_step())
    assert float((gradient * direction).sum()) == pytest.approx((found[0] - found[1]) / 2e-3, rel=0.01)


def test_a_drawn_trigger_is_the_same_from_its_file(quarters, clean, tmp_path):
    from edgekd.pipeline.attack import write_trigger

    train, options = TRAIN.model_copy(update={"epochs": 1}), {"mask_steps": 3}
    made = attacks.run("input-aware", quarters, SPEC, options, train, Goal(2), start=clean)
    file = write_trigger(made, tmp_path / "drawn")
    (back,) = triggers.load(file, shape=quarters.shape)
    assert (back.target_label, back.rule, back.name) == (2, "all-to-one", "input-aware")
    with pytest.raises(UsageError, match="sets target label 2, which the given target label 3"):
        triggers.load(file, shape=quarters.shape, target_label=3)
    assert (triggers.apply(back, quarters.images) == triggers.apply(made.trigger, quarters.images)).all()
    arrays = dict(np.load(file.with_suffix(".npz")))
    for change, message in (
        ({"bound": np.float32(3)}, "not a number from 0 to 1"),
        ({"pattern.layers.1.weight": np.zeros((1, 2, 3, 3), np.float32)}, "the generator for images of 3 channels has"),
        ({"pattern.layers.1.bias": np.full_like(arrays["pattern.layers.1.bias"], np.nan)}, "not hold finite floats"),
        ({"masks.layers.4.bias": np.full(1, 3e38, np.float32)}, "goes beyond 1000"),
        ({"nonsense": np.zeros(1, np.float32)}, "not there"),
    ):
        np.savez(tmp_path / "bad.npz", **{**arrays, **change})
        with pytest.raises(UsageError, match=message):
            triggers.load(tmp_path / "bad.npz", shape=quarters.shape, target_label=0)
    with pytest.raises(UsageError, match="channels"):
        triggers.load(file, shape=(1, 16, 16))


@pytest.mark.parametrize("name", ["latent", "leak", "adba", "scar"])
def test_attacks_with_one_target_refuse_other_goals(name, quarters, clean):
    with pytest.raises(UsageError, match="give --trigger-rule all-to-one"):
        attacks.check(name, quarters, SPEC, {}, dataclasses.replace(Goal(None, "all-to-all")), clean)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("latent", {"site": 9}, "attack.site is -3 to 2"),
        ("latent", {"position": "all-corners"}, "position"),
        ("trojannn", {"position": "middle"}, "position"),
        ("trojannn", {"size": 17}, "does not fit into images"),
        ("adba", {"shadow": "resnet9"}, "resnet"),
        ("scar", {"surrogate": "resnet9"}, "resnet"),
    ],
)
def test_settings_that_the_network_or_the_images_rule_out_are_refused_at_once(name, options, words, quarters, clean):
    with pytest.raises(UsageError, match=words):
        attacks.check(name, quarters, SPEC, options, Goal(1), clean)
