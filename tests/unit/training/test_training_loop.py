"""The loop: it learns, logs, times itself, stops on broken numbers and is a function of its seed."""

import json
import time

import pytest
import torch
from small_student import Labels, network, same
from torch import nn

from edgekd.data import Batches
from edgekd.errors import UsageError
from edgekd.training import Diverged, TrainConfig, fit
from edgekd.training.device import resolve_precision
from edgekd.training.fit import _Loop
from edgekd.types import TrainLog


def accuracy(images):
    pixels = torch.from_numpy(images.images).float() / 255
    labels = torch.from_numpy(images.labels)
    return lambda net: {"acc": float((net(pixels).argmax(1) == labels).float().mean())}


def test_a_student_learns_and_the_log_says_so(batches, config, tiny_images):
    student = network()
    log = fit(student, Labels(), batches, config, validate=accuracy(tiny_images))
    assert [entry["epoch"] for entry in log.history] == [1, 2, 3, 4]
    assert log.history[-1]["loss"] < 0.7 * log.history[0]["loss"]
    assert log.history[-1]["acc"] > 0.6
    assert log.history[0]["loss"] == pytest.approx(log.history[0]["ce"] + log.history[0]["scaled"])
    assert (log.epochs, log.steps, log.seed, log.device, log.resumed_at) == (4, 20, 3, "cpu", None)
    assert log.method == {"prepared": 1}
    assert not student.training
    assert TrainLog.from_json(json.loads(json.dumps(log.to_json()))) == log


def test_seconds_cover_the_whole_run_by_part(batches, config):
    log = fit(network(), Labels(), batches, config)
    assert {"prepare", "setup", "data", "step", "backward", "optimiser", "bookkeeping"} <= log.seconds.keys()
    loop = sum(log.seconds[part] for part in ("data", "step", "backward", "optimiser", "bookkeeping"))
    assert loop == pytest.approx(sum(entry["seconds"] for entry in log.history), rel=0.2, abs=0.1)


@pytest.mark.parametrize("own", ["_set_rate", "_refuse_broken_loss"])
def test_what_the_loop_does_for_itself_is_its_own_share(own, batches, config, monkeypatch):
    original = getattr(_Loop, own)

    def slow(*arguments):
        time.sleep(0.05)
        return original(*arguments)

    monkeypatch.setattr(_Loop, own, slow)
    log = fit(network(), Labels(), batches, config.model_copy(update={"epochs": 1}))
    assert log.seconds["bookkeeping"] >= 0.05 * log.steps
    assert log.seconds["optimiser"] < 0.05 * log.steps


def test_the_seed_decides_and_the_callers_generator_is_left_alone(batches, config):
    one, two, other = network(), network(), network()
    method, state = Labels(), torch.get_rng_state()
    fit(one, method, batches, config)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    fit(two, Labels(), batches, config)
    fit(other, Labels(), batches, config.model_copy(update={"seed": 4}))
    assert same(one, two)
    assert not same(one, other)


@pytest.mark.parametrize(("has", "said"), [(True, "bf16"), (False, "fp32"), (None, "fp32")])
def test_bf16_is_taken_where_the_processor_has_it(monkeypatch, has, said):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        if has is None:  # another version of torch
            monkeypatch.delattr(torch.cpu, name)
        else:
            monkeypatch.setattr(torch.cpu, name, lambda: has)
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if has else (7, 5))
    assert resolve_precision("auto", gpu) == said
    assert TrainConfig(epochs=1).precision == "auto"
    assert [resolve_precision(name, cpu) for name in ("auto", "bf16", "fp32")] == [said, "bf16", "fp32"]


def test_bf16_keeps_weights_and_statistics_in_float32(batches, config):
    student = network()
    log = fit(student, Labels(), batches, config.model_copy(update={"precision": "bf16"}))
    assert all(t.dtype == torch.float32 for t in student.state_dict().values() if t.is_floating_point())
    assert log.history[-1]["loss"] < log.history[0]["loss"]


def test_weights_are_channels_last(batches, config):
    student = network()
    fit(student, Labels(), batches, config.model_copy(update={"epochs": 1}))
    assert student[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_rates_follow_the_schedule(batches, config):
    rates = []

    class Watch(Labels):
        def optimizer(self, parameters, config):
            self.sgd = super().optimizer(parameters, config)
            return self.sgd

        def step(self, batch):
            rates.append(self.sgd.param_groups[0]["lr"])
            return super().step(batch)

    fit(network(), Watch(), batches, config.model_copy(update={"schedule": "step", "lr": 0.5, "warmup_epochs": 0.4}))
    assert rates == pytest.approx([0.5 / 3, 1.0 / 3] + [0.5] * 8 + [0.05] * 5 + [0.005] * 5)


def test_one_step_is_sgd_by_hand(batches, config):
    student, twin = network(), network()

    class Plain(Labels):
        def modules(self):
            return ()

        def step(self, batch):
            return {"ce": super().step(batch)["ce"]}

    single = Batches(batches.images, 160, seed=3, augment="none")
    for net in (student, twin):
        net[3].p = 0.0
    fit(student, Plain(), single, config.model_copy(update={"epochs": 1, "lr": 0.2, "weight_decay": 0.01}))
    batch = next(iter(single.epoch(0)))
    nn.functional.cross_entropy(twin.train()(batch.images), batch.labels).backward()
    weight = twin[6].weight
    gradient = weight.grad + 0.01 * weight.detach()
    # Nesterov's first step: the gradient, and 0.9 of the momentum, which is the gradient.
    torch.testing.assert_close(student[6].weight.detach(), weight.detach() - 0.2 * 1.9 * gradient)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_term_stops_with_its_name_and_keeps_the_last_checkpoint(batches, config, tmp_path, value):
    class Breaking(Labels):
        steps = 0

        def step(self, batch):
            self.steps += 1
            terms = super().step(batch)
            if self.steps == 12:
                terms["scaled"] = terms["scaled"] * value
            return terms

    student = network()
    with pytest.raises(Diverged, match=r"'scaled' became .* in epoch 3, step 2; the checkpoint of epoch 2"):
        fit(student, Breaking(), batches, config, folder=tmp_path)
    assert (tmp_path / "checkpoint-2.safetensors").exists()
    assert all(torch.isfinite(t).all() for t in student.state_dict().values() if t.is_floating_point())


def test_broken_weights_are_not_kept(batches, config, tmp_path):
    class Breaking(Labels):
        def finished(self, figures):
            with torch.no_grad():
                self.student[6].bias.fill_(0)
            return False

        def step(self, batch):
            self.student[1].running_mean.fill_(float("nan"))
            return super().step(batch)

    with pytest.raises(Diverged, match=r"'student.1.running_mean' .* after epoch 1; no checkpoint was kept"):
        fit(network(), Breaking(), batches, config, folder=tmp_path)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_method_may_end_early(batches, config, tmp_path):
    class Enough(Labels):
        def finished(self, figures):
            return figures["epoch"] == 2

    assert fit(network(), Enough(), batches, config, folder=tmp_path).epochs == 2
    again = fit(network(), Enough(), batches, config, folder=tmp_path)
    assert (again.epochs, again.resumed_at) == (2, 2)


def test_progress_tells_steps_and_comes_at_a_human_pace(batches, config):
    told = []
    fit(network(), Labels(), batches, config, progress=lambda *seen: told.append(seen), what="scratch")
    assert [seen[1] for seen in told][-1] == 20
    assert all(what == "scratch" and total == 20 for what, _, total, _ in told)
    assert {"epoch", "loss", "lr", "images_per_second"} == told[-1][3].keys()
    assert len(told) <= 8


def test_validation_may_be_rare_and_a_bare_number(batches, config, tiny_images):
    figures = accuracy(tiny_images)
    log = fit(
        network(), Labels(), batches, config.model_copy(update={"validate_every": 3}),
        validate=lambda net: figures(net)["acc"],
    )  # fmt: skip
    assert ["acc" in entry for entry in log.history] == [False, False, True, True]


def test_the_method_can_ask_for_accuracy(batches, config, tiny_images):
    class Asking(Labels):
        def prepare(self, context):
            super().prepare(context)
            self.asked = context.accuracy(context.student.eval())

    method = Asking()
    fit(network(), method, batches, config.model_copy(update={"epochs": 1}), validate=accuracy(tiny_images))
    assert 0 <= method.asked <= 1


def test_a_device_that_is_not_there(batches, config):
    with pytest.raises(UsageError, match="This machine has no device"):
        fit(network(), Labels(), batches, config.model_copy(update={"device": "cuda:99"}))


def test_auto_is_a_device(batches, config):
    log = fit(network(), Labels(), batches, config.model_copy(update={"device": "auto", "epochs": 1}))
    assert log.device in ("cpu", "cuda:0")


def test_the_config_is_frozen_and_knows_its_keys():
    config = TrainConfig(epochs=1)
    with pytest.raises(ValueError, match="frozen"):
        config.epochs = 2
    for wrong in ({"epochs": 0}, {"epochs": 1, "device": "tpu"}, {"epochs": 1, "learning_rate": 1}, {}):
        with pytest.raises(ValueError, match="validation error"):
            TrainConfig(**wrong)


@pytest.mark.gpu
def test_on_cuda(tiny_images, config):
    batches = Batches(tiny_images, 32, seed=3, device="cuda")
    student = network()
    log = fit(student, Labels(), batches, config.model_copy(update={"device": "cuda", "precision": "bf16"}))
    assert log.history[-1]["loss"] < log.history[0]["loss"]
    assert student[0].weight.is_cuda
