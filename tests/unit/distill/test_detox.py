"""Stage 1: its settings, its guard, the choice of lambda, what it leaves behind."""

import json
import math

import pytest
import torch
from small_teacher import QUICK, accuracy_on, context, model

from edgekd.distill.detox import Detox, Detoxification, DetoxSettings, measure
from edgekd.distill.features import sample
from edgekd.distill.robustkd import SWEEP, RobustKD, RobustKDSettings
from edgekd.errors import UsageError
from edgekd.losses import soft_target_kl
from edgekd.training import Context


def sample_batches(images):
    return context(model("resnet8-w4"), images).batches.epoch(0)


def prepared(images, accuracy=None, folder=None, arch="wrn-10-1", **settings):
    method = RobustKD(RobustKDSettings(**{**QUICK, **settings}), model(arch).module)
    method.prepare(context(model("resnet8-w4"), images, folder, accuracy))
    return method


class Scripted:
    """An accuracy that answers from a list; its last answer stands."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def __call__(self, network):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Watching(Scripted):
    """The same, which remembers what it was shown."""

    def __init__(self, *answers):
        super().__init__(*answers)
        self.states = []

    def __call__(self, network):
        detox = getattr(network, "detox", None)
        self.states.append(detox and {name: value.clone() for name, value in detox.state_dict().items()})
        return super().__call__(network)


@pytest.mark.parametrize("mode", ["add", "blend"])
@pytest.mark.parametrize("variance_mode", ["map", "channel", "sample"])
@pytest.mark.parametrize("granularity", ["chw", "c"])
def test_every_combination_trains_or_is_refused(tiny_images, mode, variance_mode, granularity):
    settings = {"mode": mode, "variance_mode": variance_mode, "granularity": granularity}
    if (mode, variance_mode) == ("add", "sample"):
        with pytest.raises(ValueError, match="mode blend"):
            RobustKDSettings(**settings)
        return
    method = prepared(tiny_images, **settings)
    expected = (16, 16, 16) if granularity == "chw" else (16, 1, 1)
    assert method.detox.p["0"].shape == expected
    assert all(math.isfinite(ratio) for ratio in method.report["detox"]["variance_ratio"])


def test_p_starts_at_the_mean_clean_feature_and_v0_is_the_teachers(tiny_images):
    teacher = model("wrn-10-1")
    place = context(teacher, tiny_images)
    seen = measure(teacher.module, sample(place.batches, 160), "map")
    means, variances = [each.mean for each in seen], [each.variance for each in seen]
    with torch.no_grad():
        raw = torch.cat([teacher.module.sites(batch.images).raw[1] for batch in place.batches.epoch(0)])
    torch.testing.assert_close(means[1], raw.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(variances[1], raw.flatten(1).var(1, correction=0).mean(), rtol=1e-4, atol=1e-5)
    for granularity in ("chw", "c"):
        detox = Detox(tuple(mean.shape for mean in means), DetoxSettings(granularity=granularity))
        detox.begin(seen)
        wanted = means[1] if granularity == "chw" else means[1].mean((1, 2), keepdim=True)
        torch.testing.assert_close(detox.p["1"].detach(), wanted)
        assert torch.equal(detox.mask(1).detach(), torch.full_like(wanted, 0.1))


def test_rates_are_in_deviations_of_each_sites_features(tiny_images):
    small, large = prepared(tiny_images), model("wrn-10-1")
    method = Detoxification(large.module, DetoxSettings(), 0.1, 64, None)
    detox = Detox(small.detox.shapes, DetoxSettings())
    place = context(large, tiny_images)
    method.prepare(Context(detox, place.batches, place.config, place.device))
    rates = [group["lr"] for group in method.optimizer(list(detox.parameters()), place.config).param_groups]
    assert rates == pytest.approx([*(0.03 * torch.sqrt(detox.variance)).tolist(), 0.05])


def test_the_penalty_lowers_the_variance_at_every_site(tiny_images):
    report = prepared(tiny_images, detox_steps=40, lambda_f=10.0, detox_lr=0.3, guard_every=40).report["detox"]
    assert max(report["variance_ratio"]) < 1
    assert all(norm > 0 for norm in report["offset_norm"].values())


def test_only_the_deepest_sites_where_asked(tiny_images):
    method = prepared(tiny_images, detox_sites=1)
    assert method.detox.sites == (2,)
    feature = torch.ones(2, 16, 16, 16)
    assert method.detox.edit(0, feature) is feature
    assert prepared(tiny_images, detox_sites=9).detox.sites == (0, 1, 2)


def test_another_image_size_is_refused_unless_per_channel(tiny_images):
    shapes = (torch.Size((4, 8, 8)),)
    with pytest.raises(UsageError, match="granularity=c"):
        Detox(shapes, DetoxSettings(granularity="chw")).edit(0, torch.zeros(1, 4, 9, 9))
    per_channel = Detox(shapes, DetoxSettings(granularity="c"))
    assert per_channel.edit(0, torch.zeros(1, 4, 9, 9)).shape == (1, 4, 9, 9)
    with pytest.raises(UsageError, match="trained for features"):
        per_channel.edit(0, torch.zeros(1, 5, 8, 8))


def test_the_guard_stops_and_returns_to_the_last_good_state(tiny_images, tmp_path):
    # raw 0.90; after the chunks 0.70 (not good yet), 0.89, 0.895, 0.5: stop, back to the third
    seen = Watching(0.90, 0.70, 0.89, 0.895, 0.50, 0.1)
    method = prepared(tiny_images, seen, detox_steps=20)
    report = method.report["detox"]
    assert (report["acc_raw"], report["acc_detox"], report["restored"], report["steps"]) == (0.90, 0.895, True, 8)
    assert report["within_max_drop"] is True
    whole = prepared(tiny_images, Scripted(0.90, 0.70, 0.89, 0.895), detox_steps=20)
    assert whole.report["detox"]["restored"] is False
    _, first, second, third, fourth = seen.states[:5]  # the raw teacher has none
    kept = {name: value for name, value in method.detox.state_dict().items() if name[:2] in ("p.", "u.")}
    same = [
        all(torch.equal(value, then[name]) for name, value in kept.items()) for then in (first, second, third, fourth)
    ]
    assert same == [False, False, True, False]


def test_a_teacher_that_never_gets_good_enough_keeps_the_best_state_and_says_so(tiny_images):
    report = prepared(tiny_images, Scripted(0.90, 0.30, 0.60, 0.50), detox_steps=6).report["detox"]
    assert (report["acc_detox"], report["within_max_drop"], report["restored"]) == (0.60, False, True)


def test_without_validation_images_nothing_is_guarded_and_the_report_says_none(tiny_images):
    report = prepared(tiny_images).report["detox"]
    assert report["acc_raw"] is report["acc_detox"] is report["within_max_drop"] is None
    assert report["sweep"] == []
    json.dumps(report, allow_nan=False)


def test_auto_takes_the_largest_lambda_that_keeps_accuracy(tiny_images):
    # raw, then two chunks of each lambda: 1 loses too much, 0.3 is within 1.5 points
    method = prepared(tiny_images, Scripted(0.90, 0.89, 0.60, 0.88, 0.89), lambda_f="auto")
    assert method.report["detox"]["lambda_f"] == 0.3
    assert method.report["detox"]["sweep"] == [{"lambda_f": 1.0, "acc": 0.60}, {"lambda_f": 0.3, "acc": 0.89}]


def test_auto_ends_with_the_smallest_where_none_keeps_accuracy(tiny_images):
    method = prepared(tiny_images, Scripted(0.90, 0.2), lambda_f="auto")
    assert [row["lambda_f"] for row in method.report["detox"]["sweep"]] == list(SWEEP)
    assert method.report["detox"]["within_max_drop"] is False


def test_auto_needs_validation_images(tiny_images):
    with pytest.raises(UsageError, match="to a number"):
        prepared(tiny_images, lambda_f="auto")


def test_stage_1_is_not_done_twice(tiny_images, tmp_path):
    accuracy = accuracy_on(tiny_images)
    one = prepared(tiny_images, accuracy, tmp_path)
    files = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    assert {path.parent.name for path in files} == {"detox-0.1"}
    assert any(path.suffix == ".safetensors" for path in files)
    two = prepared(tiny_images, accuracy, tmp_path)
    assert {path: path.read_bytes() for path in files} == files
    assert one.report == two.report
    assert all(torch.equal(one.detox.p[key], two.detox.p[key]) for key in one.detox.p)


def test_stage_1_killed_between_two_looks_continues_with_the_same_bits(tiny_images, tmp_path):
    class Killed(BaseException):
        pass

    class Dying:
        looks = 0

        def __call__(self, network):
            self.looks += 1
            if self.looks == 4:  # the raw teacher, two chunks, then in the third
                raise Killed
            return accuracy_on(tiny_images)(network)

    settings = {"detox_steps": 8, "max_drop": 1.0}
    with pytest.raises(Killed):
        prepared(tiny_images, Dying(), tmp_path / "run", **settings)
    assert (tmp_path / "run" / "detox-0.1" / "checkpoint-2.json").exists()
    again = prepared(tiny_images, accuracy_on(tiny_images), tmp_path / "run", **settings)
    whole = prepared(tiny_images, accuracy_on(tiny_images), **settings)
    assert again.report == whole.report
    assert all(torch.equal(again.detox.u[key], whole.detox.u[key]) for key in whole.detox.u)


def test_steps_may_be_counted_in_epochs(tiny_images):
    assert prepared(tiny_images, detox_steps=4, detox_epochs=1.5).steps == 8  # 5 steps an epoch, chunks of 2
    assert prepared(tiny_images, detox_steps=1, guard_every=50).steps == 1


def test_it_reports_progress(tiny_images):
    told = []
    plain = context(model("resnet8-w4"), tiny_images)
    place = Context(plain.student, plain.batches, plain.config, plain.device, progress=lambda *seen: told.append(seen))
    RobustKD(RobustKDSettings(**QUICK), model("wrn-10-1").module).prepare(place)
    assert {seen[0] for seen in told} == {"detoxify"}
    assert told[-1][1:3] == (4, 4)


def test_nothing_wants_gradients_afterwards(tiny_images):
    method = prepared(tiny_images)
    assert not any(p.requires_grad for p in method.detox.parameters())
    assert method.modules() == (method.connectors,)


@pytest.mark.parametrize("wrong", [{"lambda_f": -1.0}, {"lambda_f": "most"}, {"tau": 2}, {"beta": -1}, {"lamda_f": 1}])
def test_settings_are_checked_and_frozen(wrong):
    with pytest.raises(ValueError, match="validation error"):
        RobustKDSettings(**wrong)
    with pytest.raises(ValueError, match="frozen"):
        RobustKDSettings().tau = 0.5


def test_on_the_logits_base_the_student_learns_the_detoxified_teachers_outputs(tiny_images):
    method = prepared(tiny_images, base="logits", alpha=1.0)
    batch = next(sample_batches(tiny_images))
    with torch.no_grad():
        taught = method.teacher.sites(batch.images, method.detox.edit).logits
        raw = method.teacher(batch.images)
    method.student.eval()
    terms = method.step(batch)
    assert set(terms) == {"ce", "kd"}
    assert torch.isclose(terms["kd"], soft_target_kl(method.student(batch.images), taught, 4.0))
    assert not torch.isclose(terms["kd"], soft_target_kl(method.student(batch.images), raw, 4.0))
    assert method.modules() == ()
    json.dumps(method.report, allow_nan=False)


def test_permuted_offsets_are_the_same_ones_on_other_channels(tiny_images):
    trained, permuted = prepared(tiny_images), prepared(tiny_images, permuted=True)
    for site in trained.detox.sites:
        own, other = (method.detox.offset(site).flatten() for method in (trained, permuted))
        assert torch.equal(own.sort().values, other.sort().values)
        assert not torch.equal(own, other)


def test_the_penalty_alone_leaves_cross_entropy_out(tiny_images):
    method = prepared(tiny_images)
    alone = Detoxification(method.teacher, DetoxSettings(detox_ce=0), 0.1, 64, None)
    alone.detox = method.detox
    terms = {name: value.item() for name, value in alone.step(next(sample_batches(tiny_images))).items()}
    assert terms["ce"] == 0
    assert terms["variance"] > 0
