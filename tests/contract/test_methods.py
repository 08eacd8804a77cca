"""Every distillation method through the same checks, and every teacher family through every method with a teacher."""

import inspect
import itertools
import pkgutil
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from families import SMALLEST

from edgekd import distill, models
from edgekd.distill.base import Distiller
from edgekd.distill.run import method_class
from edgekd.errors import UsageError
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, Model, ModelSpec

METHODS = list(distill.METHODS)
# What makes a method quick enough for a test; a new method needs a row only if its defaults are slow.
QUICK = {
    "robustkd": {"detox_steps": 4, "guard_every": 2, "margin_images": 48},
    "overhaul": {"margin_images": 48},
    "robustkd-plus": {"search_steps": 3},
    "kdiga": {"trust_teacher": True},
    "igdm": {"trust_teacher": True},
    "pgd-at": {"attack_steps": 2},
    "crd": {"negatives": 32, "dim": 16},  # fewer than there are images, so that they are drawn
}
# How many pairs of sites a method compares where it is not all of them.
COMPARED = {"fitnets": 1, "sp": 1, "crd": 1}
LOOKS_ONLY = {"disk"}  # at the teacher's features, and copies none
MORE = ("stripnet", "convpool-mnist", "badnet-cnn", "wrn-10-1-layers")
PLAIN = ("resnet8", "cnn3")  # with norms and without
LARGE = ("resnet18", "preactresnet18", "mobilenetv2")
TRAIN = TrainConfig(epochs=2, batch_size=16, lr=0.02, precision="fp32", augment="none", warmup_epochs=0.5)


def spec(arch: str) -> ModelSpec:
    return ModelSpec(arch, 4, InputSpec(3, 16, 16, (0.4, 0.5, 0.45), (0.2, 0.25, 0.3)))


@cache  # no method changes its teacher: a run that finds a bit of it changed is an error
def trained_looking(arch: str) -> Model:
    """A network whose batch-norms do something, as after training."""
    model = models.build(spec(arch))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.module.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for tensor, low in ((module.running_mean, -0.3), (module.running_var, 0.5), (module.bias, -0.3)):
                    tensor.copy_(low + 0.6 * torch.rand(tensor.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def teacher(few_images) -> Model:
    """One that knows the images."""
    return distill.run(None, spec("wrn-10-1"), few_images, "scratch", {}, TRAIN.model_copy(update={"epochs": 10}))[0]


def run(method, teacher, images, folder=None, **train):
    config = TRAIN.model_copy(update=train)
    given = None if method_class(method).needs == "nothing" else teacher
    return distill.run(given, spec("resnet8-w4"), images, method, QUICK.get(method, {}), config, folder=folder)


@pytest.mark.parametrize("method", METHODS)
def test_its_settings_are_frozen_documented_and_complete(method):
    kind = method_class(method)
    assert issubclass(kind, Distiller)
    assert kind.__doc__
    settings = kind.Config()  # every setting has a default
    assert kind.Config.model_validate(settings.model_dump(mode="json")) == settings
    with pytest.raises(ValueError, match="forbidden"):
        kind.Config(no_such_setting=1)
    for name in kind.Config.model_fields:
        with pytest.raises(ValueError, match="frozen"):
            setattr(settings, name, 1)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_one_file_that_imports_no_judge(method):
    """A method never sees triggers or test data: its package imports neither audit nor triggers."""
    source = inspect.getsource(inspect.getmodule(method_class(method)))
    assert not any(f"{word} import" in source for word in ("audit", "triggers", "runners"))
    assert method_class(method).__module__.rpartition(".")[2] in {
        m.name for m in pkgutil.iter_modules(distill.__path__)
    }


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_a_few_images_by_heart_and_leaves_the_teacher_alone(method, teacher, few_images):
    before = models.weights_sha256(teacher.module.state_dict())
    student, log = run(method, teacher, few_images, epochs=12, lr=0.05)
    assert models.weights_sha256(teacher.module.state_dict()) == before
    assert not teacher.module.training
    assert all(np.isfinite(list(entry.values())).all() for entry in log.history)
    assert log.history[-1]["ce"] < 0.7 * log.history[0]["ce"]
    with torch.no_grad():
        logits = student.module(torch.from_numpy(few_images.images).float() / 255)
    assert float((logits.argmax(1).numpy() == few_images.labels).mean()) > 0.5
    # nothing of what was trained beside it stays in it
    plain = models.build(student.spec).module
    assert repr(student.module) == repr(plain)
    shapes = [{name: tensor.shape for name, tensor in net.state_dict().items()} for net in (student.module, plain)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_it_is_a_function_of_its_seed(method, teacher, few_images, precision):
    """In one epoch; that of several is held where a run is killed and continued."""
    one, log = run(method, teacher, few_images, precision=precision, epochs=1)
    torch.rand(3)
    two, again = run(method, teacher, few_images, precision=precision, epochs=1)
    assert one.sha256 == two.sha256
    timeless = [[{k: v for k, v in e.items() if k != "seconds"} for e in each.history] for each in (log, again)]
    assert timeless[0] == timeless[1]
    if precision == "fp32":
        assert run(method, teacher, few_images, epochs=1, seed=1)[0].sha256 != one.sha256


@pytest.mark.parametrize("method", METHODS)
def test_it_continues_with_the_same_bits(method, teacher, few_images, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    whole, _ = run(method, teacher, few_images)
    kind, steps = method_class(method), []
    original = kind.step

    def dying(self, batch):
        if len(steps) == 4:  # three steps an epoch: in the second and last
            raise Killed
        steps.append(1)
        return original(self, batch)

    monkeypatch.setattr(kind, "step", dying)
    with pytest.raises(Killed):
        run(method, teacher, few_images, tmp_path)
    monkeypatch.setattr(kind, "step", original)
    student, log = run(method, teacher, few_images, tmp_path)
    assert log.resumed_at == 1
    assert student.sha256 == whole.sha256
    assert log.method == run(method, teacher, few_images, tmp_path)[1].method


def test_every_family_of_the_zoo_has_a_teacher_here():
    assert {family.module for family in models.FAMILIES} == SMALLEST.keys()


def taught() -> list[Any]:
    """Who teaches by what: by its features every family, by its answers, which have one shape in all, two of them."""
    found = []
    for arch, method in itertools.product([*SMALLEST.values(), *MORE], METHODS):
        needs, slow = method_class(method).needs, method == "robustkd-plus" and arch in LARGE
        if needs != "nothing" and (needs not in ("logits", "gradients") or arch in PLAIN):
            found.append(pytest.param(arch, method, marks=[pytest.mark.slow] if slow else []))
    return found


@pytest.mark.parametrize(("arch", "method"), taught())
def test_every_teacher_family_teaches(arch, method, few_images):
    teacher = trained_looking(arch)
    student, log = run(method, teacher, few_images, epochs=1)
    assert all(np.isfinite(list(entry.values())).all() for entry in log.history)
    assert student.spec.arch == (arch if method == "finetune" else "resnet8-w4")
    if method_class(method).needs == "sites" and method not in LOOKS_ONLY:
        sites = teacher.module.site_norms()
        assert len(log.method["sites"]) == min(COMPARED.get(method, 3), len(sites))
        assert log.history[0]["features"] > 0
    if method == "robustkd":
        assert len(log.method["detox"]["variance_ratio"]) == len(sites)


@pytest.mark.parametrize("arch", [*SMALLEST.values(), *MORE])
def test_an_edit_of_any_site_reaches_the_logits(arch, few_images):
    """Detoxifying a recorded copy only would change nothing downstream."""
    teacher = trained_looking(arch).module
    images = torch.from_numpy(few_images.images[:4]).float() / 255
    with torch.no_grad():
        plain = teacher.sites(images)
        for site in range(len(plain.raw)):
            edited = teacher.sites(images, lambda level, feature, site=site: feature + 3.0 * (level == site))
            assert not torch.equal(edited.logits, plain.logits)
            for level in range(site):
                assert torch.equal(edited.raw[level], plain.raw[level])


def test_a_student_can_start_from_given_weights(teacher, few_images, tmp_path):
    first = {name: value for name, value in teacher.module.net.state_dict().items() if name.startswith("conv1")}
    assert first
    still = TRAIN.model_copy(update={"epochs": 1, "lr": 1e-12})
    run_from = partial(distill.run, teacher, spec("wrn-10-1"), few_images, "kd", {}, still)
    student, _ = run_from(start=first)
    for name, value in first.items():
        assert torch.allclose(student.module.net.state_dict()[name], value, atol=1e-6)
    learning = partial(distill.run, teacher, spec("wrn-10-1"), few_images, "kd", {}, TRAIN, start=first)
    for frozen in (False, True):
        module = learning(frozen=frozen)[0].module
        kept = [torch.equal(module.net.state_dict()[name], value) for name, value in first.items()]
        assert kept == [frozen] * len(first)
        assert all(parameter.requires_grad for parameter in module.parameters())
    run_from(start=first, folder=tmp_path)
    with pytest.raises(UsageError, match="other settings: start"):
        run_from(folder=tmp_path)
    with pytest.raises(UsageError, match="no tensor 'nonsense'"):
        run_from(start={"nonsense": torch.zeros(1)})
