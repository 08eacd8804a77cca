"""KDIGA, IGDM and adversarial training: their formulas, KDIGA's controls and guard, and whom the first two refuse."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_teacher import context, model, spec

from edgekd import distill
from edgekd.distill.adversarial_training import PerturbationSettings, perturbed
from edgekd.distill.igdm import IGDM, IGDMSettings
from edgekd.distill.kdiga import KDIGA, Balance, Gauge, KDIGASettings
from edgekd.errors import UnsafeInput
from edgekd.losses import indirect_slope_kl, input_gradient, slope_distance, soft_target_kl
from edgekd.training import TrainConfig
from edgekd.types import AuditReport, Rate

TRAIN = TrainConfig(epochs=1, batch_size=32, lr=0.02, precision="fp32", augment="none")


def ready(kind, settings, images, epochs=4, student=None):
    method = kind(settings, model("wrn-10-1").module.requires_grad_(False))
    place = context(student or model("resnet8-w4", seed=1), images, epochs=epochs)
    method.prepare(place)
    method.student.eval()
    method.start_epoch(0)
    return method, next(iter(place.batches.epoch(0)))


def kdiga(images, **settings):
    return ready(KDIGA, KDIGASettings(**{"rise": 0, "slope_weight": 1, **settings}), images)


def slopes(network, batch, temperature):
    images = batch.images.clone().requires_grad_()
    logits = network(images)
    return logits.detach(), input_gradient(logits, batch.labels, images, temperature=temperature)


def figures(terms):
    return {name: term.item() for name, term in terms.items()}


def test_kdiga_is_the_weighted_sum_of_its_terms(tiny_images):
    settings = {"ce_weight": 0.3, "kd_weight": 0.7, "temperature": 2.0, "slope_weight": 1.5, "slope_temperature": 3.0}
    method, batch = kdiga(tiny_images, agree=False, **settings)
    s, ours = slopes(method.student, batch, 3.0)
    t, theirs = slopes(method.teacher, batch, 3.0)
    wanted = {
        "ce": 0.3 * F.cross_entropy(s, batch.labels),
        "kd": 0.7 * soft_target_kl(s, t, 2.0),
        "slopes": 1.5 * (ours - theirs).flatten(1).norm(dim=1).mean(),
    }
    assert figures(method.step(batch)) == pytest.approx(figures(wanted), rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert figures(method.step(batch)) == pytest.approx(figures(wanted), rel=1e-4), "all digits in bf16 runs too"


def test_without_a_weight_no_slopes_are_computed(tiny_images, monkeypatch):
    """The loss is then what it was, to the bit, and no second backward pass is paid for it."""
    with_slopes, batch = kdiga(tiny_images, temperature=2.0)
    wanted = {name: term for name, term in with_slopes.step(batch).items() if name != "slopes"}
    method, _ = kdiga(tiny_images, temperature=2.0, slope_weight=0)
    monkeypatch.setattr("edgekd.distill.kdiga.input_gradient", None)
    terms = method.step(batch)
    assert figures(terms) == figures(wanted)
    sum(terms.values()).backward()
    assert max(float(p.grad.abs().max()) for p in method.student.parameters() if p.grad is not None) > 1e-4
    assert all(p.grad is None for p in method.teacher.parameters())
    assert method.report == {"slopes": [], "halvings": None, "slope_weight": 0}


def test_only_images_whose_label_the_teacher_shares_count(tiny_images):
    method, batch = kdiga(tiny_images)
    t, theirs = slopes(method.teacher, batch, 4.0)
    _, ours = slopes(method.student, batch, 4.0)
    shared = (t.argmax(1) == batch.labels).float()
    assert 0 < shared.sum() < len(shared)
    wanted = slope_distance(ours, theirs)[shared.bool()].mean()
    assert method.step(batch)["slopes"].item() == pytest.approx(wanted.item(), rel=1e-4)
    batch.labels[:] = (t.argmax(1) + 1) % 4
    assert method.step(batch)["slopes"].item() == 0


def test_the_zero_control_penalises_slopes_and_asks_for_none_of_the_teachers(tiny_images):
    method, batch = kdiga(tiny_images, agree=False, teacher_slopes="zero")
    _, ours = slopes(method.student, batch, 4.0)
    asked = []
    method.teacher.register_forward_hook(lambda *_: asked.append(torch.is_grad_enabled()))
    assert method.step(batch)["slopes"].item() == pytest.approx(ours.flatten(1).norm(dim=1).mean().item(), rel=1e-4)
    assert asked == [False]
    (row,) = method.report["slopes"]
    assert set(row) == {"epoch", "student", "right"}, "what was not computed is not told"


def test_shuffled_slopes_are_the_same_set_among_the_images_that_count(tiny_images):
    method, _ = kdiga(tiny_images, teacher_slopes="shuffled")
    rows, shared = torch.arange(6.0)[:, None], torch.tensor([True, True, False, True, False, True])
    for _ in range(20):
        shown = method._shown(rows, shared).flatten()
        assert sorted(shown[shared].tolist()) == [0, 1, 3, 5]
        assert not (shown == rows.flatten())[shared].any(), "never its own"
        assert torch.equal(shown[~shared], rows.flatten()[~shared])
    alone = torch.arange(6) == 2
    assert torch.equal(method._shown(rows, alone), rows)
    own, _ = kdiga(tiny_images)
    assert torch.equal(own._shown(rows, shared), rows)


def test_the_weight_follows_the_first_epoch_and_is_then_its_means(tiny_images):
    method, batch = kdiga(tiny_images, slope_weight="auto", slope_share=0.8)
    s, ours = slopes(method.student, batch, 4.0)
    t, theirs = slopes(method.teacher, batch, 4.0)
    shared = t.argmax(1) == batch.labels
    ce, apart = F.cross_entropy(s, batch.labels).item(), slope_distance(ours, theirs)[shared].mean().item()
    assert method.step(batch)["slopes"].item() == pytest.approx(0.8 * ce, rel=1e-4), "the share of its cross-entropy"
    assert method._weight() == pytest.approx(0.8 * ce / apart, rel=1e-4)
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.mul_(1.1)
    method.step(batch)
    settled = method._weight()
    assert settled != pytest.approx(0.8 * ce / apart, rel=1e-4), "the mean of both batches"
    method.start_epoch(1)
    method.step(batch)
    assert method._weight() == method.report["slope_weight"] == settled
    again, _ = kdiga(tiny_images, slope_weight="auto", slope_share=0.8)
    for module, kept in zip(again.modules(), method.modules(), strict=True):
        module.load_state_dict(kept.state_dict())
    again.start_epoch(2)
    assert again._weight() == settled, "a continued run has it"


def test_means_are_over_images_and_nothing_apart_has_no_weight():
    balance = Balance()
    assert balance.weight(0.5) == 0
    balance.note(torch.tensor(2.0), torch.zeros(3), torch.ones(3, dtype=torch.bool))
    assert balance.weight(0.5) == 0
    balance.note(torch.tensor(6.0), torch.tensor([8.0]), torch.tensor([True]))
    assert balance.weight(0.5) == pytest.approx(0.5 * 3 / 2)
    balance.note(torch.tensor(3.0), torch.full((4,), 100.0), torch.zeros(4, dtype=torch.bool))
    assert balance.weight(0.5) == pytest.approx(0.5 * 3 / 2), "only distances of images that are compared"


def test_noise_moves_the_points_where_slopes_are_compared(tiny_images):
    plain, batch = kdiga(tiny_images)
    noisy, _ = kdiga(tiny_images, noise="8/255")
    torch.manual_seed(0)
    assert noisy.step(batch)["slopes"].item() != plain.step(batch)["slopes"].item()
    assert noisy.config.noise == 8 / 255


def test_a_student_that_is_the_teacher_has_its_slopes(tiny_images):
    twin = copy.deepcopy(model("wrn-10-1"))
    twin.module.requires_grad_(True)
    method, batch = ready(KDIGA, KDIGASettings(rise=0, slope_weight=1), tiny_images, student=twin)
    terms = method.step(batch)
    assert terms["slopes"].item() < 1e-6
    assert terms["kd"].item() == pytest.approx(0, abs=1e-6)


def test_the_slopes_reach_the_students_weights_and_not_the_teachers(tiny_images):
    method, batch = kdiga(tiny_images, ce_weight=0, kd_weight=0)
    torch.stack(list(method.step(batch).values())).sum().backward()
    assert max(float(p.grad.abs().max()) for p in method.student.parameters() if p.grad is not None) > 1e-4
    assert all(p.grad is None for p in method.teacher.parameters())
    for parameter in method.student.parameters():
        parameter.grad = torch.full_like(parameter, 10.0)
    stepped = []
    method.update(lambda: stepped.append(1))
    lengths = torch.stack([p.grad.norm() for p in method.student.parameters()])
    assert (stepped, lengths.norm().item()) == ([1], pytest.approx(5, rel=1e-3))


def test_the_weight_rises_over_the_first_steps(tiny_images):
    method, _ = kdiga(tiny_images, rise=0.5, slope_weight=3.0)
    assert method.steps * method.epochs // 2 > 4
    half = method.steps * method.epochs / 2
    assert [method._weight() for _ in range(4)] == pytest.approx([3 * n / half for n in range(4)])
    method.start_epoch(3)
    assert method._weight() == 3.0


def test_slopes_that_are_gone_halve_the_weight(tiny_images):
    gauge = Gauge(5)
    for epoch, (length, right) in enumerate([(1.0, 3), (0.5, 2), (0.01, 3), (0.01, 2), (0.01, 2)]):
        ours = torch.zeros(4, 1, 2, 2)
        ours[:, 0, 0, 0] = length
        gauge.note(epoch, ours, torch.ones(4, 1, 2, 2), torch.arange(4) < right)
    assert [gauge.collapses(n) for n in range(6)] == [0, 0, 0, 0, 1, 2], (
        "short and less accurate than ever before, both"
    )
    diary = gauge.diary()
    assert diary[0] == pytest.approx(
        {"epoch": 1, "student": 1, "teacher": 2, "distance": 3**0.5, "cosine": 0.5, "right": 0.75}
    )
    method, _ = kdiga(tiny_images, slope_weight=2.0)
    method.gauge = gauge
    method.start_epoch(4)
    assert method._weight() == 1.0


@pytest.mark.parametrize("direction", ["signs", "attack"])
def test_igdm_is_the_weighted_sum_of_its_terms(tiny_images, direction):
    settings = IGDMSettings(direction=direction, slope_weight=2.0, attack_steps=2)
    method, batch = ready(IGDM, settings, tiny_images)
    method.start_epoch(1)
    torch.manual_seed(3)
    terms = method.step(batch)
    torch.manual_seed(3)
    if direction == "attack":
        moved = perturbed(method.student, batch, settings) - batch.images
    else:
        moved = 8 / 255 * (2 * torch.randint(0, 2, batch.images.shape) - 1)
    assert 0.9 * 8 / 255 < float(moved.abs().max()) < 8 / 255 + 1e-6 or direction == "attack"
    with torch.no_grad():
        s, t = ([net(batch.images + sign * moved) for sign in (0, 1, -1)] for net in (method.student, method.teacher))
    place = 1 if direction == "attack" else 0
    wanted = {
        "ce": 0.5 * F.cross_entropy(s[0], batch.labels),
        "kd": 0.5 * soft_target_kl(s[place], t[place], 1.0),
        "slopes": 2.0 * 2 / 4 * indirect_slope_kl(tuple(s[1:]), tuple(t[1:])),
    }
    assert figures(terms) == pytest.approx(figures(wanted), rel=1e-3)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        assert figures(method.step(batch)) == pytest.approx(figures(wanted), rel=1e-3), "all digits in bf16 runs too"


def test_running_statistics_follow_the_images_themselves(tiny_images):
    method, batch = ready(IGDM, IGDMSettings(), tiny_images)
    twin = copy.deepcopy(method.student).train()
    method.student.train()
    sum(method.step(batch).values()).backward()
    twin(batch.images)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in method.student.state_dict().items())
    assert all(module.training for module in method.student.modules())


def test_adversarial_training_sees_images_that_are_hard_and_near(tiny_images):
    settings = PerturbationSettings(bound="4/255", attack_steps=3, attack_rate="2/255")
    method, batch = ready(IGDM, IGDMSettings(), tiny_images)
    student = method.student.train()
    norms = copy.deepcopy(student.state_dict())
    made = perturbed(student, batch, settings)
    assert student.training
    assert all(torch.equal(value, norms[name]) for name, value in student.state_dict().items())
    assert float((made - batch.images).abs().max()) < 4 / 255 + 1e-6
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    student.eval()
    with torch.no_grad():
        before, after = (F.cross_entropy(student(images), batch.labels).item() for images in (batch.images, made))
    assert after > before + 0.01


def audited(*alarms, **others):
    about = {"canaries": {}, "alarms": alarms, "model_sha256": model("wrn-10-1").sha256}
    return AuditReport(Rate(9, 10), (), "0" * 64, **{**about, **others})


@pytest.mark.parametrize("method", ["kdiga", "igdm"])
@pytest.mark.parametrize(
    ("report", "words"),
    [
        (None, "was not audited.*edgekd compress.*distill.trust_teacher=true"),
        (audited(alarms=None), "was not audited"),
        (audited(canaries=None), "was not audited"),
        (audited(model_sha256="0" * 64), "of other weights"),
        (
            audited("a/1", "b", "c", "d", "e"),
            r"a trigger works on it: a/1, b, c and 2 more\. In a new folder \(--out\).*--repair.*-o distill\.trust",
        ),
    ],
)
def test_a_teacher_that_nobody_vetted_is_refused(tiny_images, method, report, words):
    teacher = model("wrn-10-1")
    with pytest.raises(UnsafeInput, match=words) as refused:
        distill.run(teacher, spec("resnet8-w4"), tiny_images, method, {}, TRAIN, report=report)
    assert refused.value.exit_code == 3


def test_a_vetted_or_trusted_teacher_is_learnt_from(tiny_images):
    few, teacher = tiny_images.subset(range(64)), model("wrn-10-1")
    clean, _ = distill.run(teacher, spec("resnet8-w4"), few, "kdiga", {}, TRAIN, report=audited())
    trusted, log = distill.run(
        teacher, spec("resnet8-w4"), few, "kdiga", {"trust_teacher": True}, TRAIN, report=audited("patch")
    )
    assert clean.sha256 == trusted.sha256
    assert [set(row) for row in log.method["slopes"]] == [
        {"epoch", "student", "teacher", "distance", "cosine", "right"}
    ]
    assert log.method["slope_weight"] > 0
