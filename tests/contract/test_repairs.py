"""Every repair of the table through the same checks: settings, seeds, resume, what it leaves alone, what it refuses."""

import inspect
import itertools
import pkgutil
from typing import Any

import numpy as np
import pytest
import torch
from families import SMALLEST

from edgekd import distill, models, repair
from edgekd.data import ImageSet
from edgekd.errors import EdgekdError, UsageError
from edgekd.repair import REPAIRS
from edgekd.repair.base import Repair
from edgekd.repair.run import repair_class
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, Model, ModelSpec

INPUT = InputSpec(3, 16, 16, (0.4, 0.5, 0.45), (0.2, 0.25, 0.3))
TRAIN = TrainConfig(epochs=1, batch_size=32, precision="fp32", augment="none", weight_decay=0.0)
# repair -> the settings it is run with here
ROWS = {
    "ft": {"epochs": 3},
    "ft-sam": {"epochs": 3},
    "nad": {"epochs": 3, "tune_epochs": 1},
    "anp": {"steps": 100, "lr": 2.0, "threshold": 0.8},
    "clp": {"u": 2.0},
    "gate": {"steps": 100, "search_steps": 4},
    "i-bau": {"epochs": 3, "searches": 2, "inner_steps": 3},
}
TRAINED = sorted(name for name in ROWS if repair_class(name).trains)
WITHOUT_NORMS = {"cnn"}


@pytest.fixture(scope="module")
def teacher(tiny_images) -> Model:
    """One that knows the images."""
    spec, train = ModelSpec("wrn-10-1", 4, INPUT), TRAIN.model_copy(update={"epochs": 8, "lr": 0.05})
    return distill.run(None, spec, tiny_images, "scratch", {}, train)[0]


def right(model: Model, images: ImageSet) -> float:
    return accuracy_on(images)(model.module)


def accuracy_on(images: ImageSet):
    def accuracy(network) -> float:
        with torch.no_grad():
            said = network(torch.from_numpy(images.images).float() / 255).argmax(1).numpy()
        return float((said == images.labels).mean())

    return accuracy


def short(name):
    least = {"epochs": 1, "tune_epochs": 1, "steps": 1, "searches": 1, "inner_steps": 1, "search_steps": 1}
    return {key: least.get(key, value) for key, value in ROWS[name].items()}


def run(name, teacher, images, folder=None, **train):
    return repair.run(name, teacher, images, ROWS[name], TRAIN.model_copy(update=train), folder=folder)


def test_every_repair_has_a_row():
    assert set(ROWS) == set(REPAIRS)


@pytest.mark.parametrize("name", ROWS)
def test_its_settings_are_frozen_documented_and_complete(name):
    kind = repair_class(name)
    assert issubclass(kind, Repair)
    assert kind.__doc__
    settings = kind.Config()  # every setting has a default
    assert kind.Config.model_validate(settings.model_dump(mode="json")) == settings
    with pytest.raises(ValueError, match="forbidden"):
        kind.Config(no_such_setting=1)
    for field, about in kind.Config.model_fields.items():
        assert about.description, field
        with pytest.raises(ValueError, match="frozen"):
            setattr(settings, field, 1)


@pytest.mark.parametrize("name", ROWS)
def test_it_is_one_file_that_imports_no_judge(name):
    """A repair never sees triggers or test data."""
    source = inspect.getsource(inspect.getmodule(repair_class(name)))
    assert not any(f"{word} import" in source for word in ("audit", "triggers", "runners"))
    assert repair_class(name).__module__.rpartition(".")[2] in {m.name for m in pkgutil.iter_modules(repair.__path__)}


@pytest.mark.parametrize("name", ROWS)
def test_it_makes_a_new_network_that_still_knows_the_images(name, teacher, tiny_images):
    before = models.weights_sha256(teacher.module.state_dict())
    made, log = run(name, teacher, tiny_images)
    assert made.spec == teacher.spec
    assert made.sha256 == models.weights_sha256(made.module.net.state_dict()) != teacher.sha256
    assert models.weights_sha256(teacher.module.state_dict()) == before
    for module in (made.module, teacher.module):
        assert not any(part.training for part in module.modules())
    assert not {id(p) for p in made.module.parameters()} & {id(p) for p in teacher.module.parameters()}
    assert all(p.requires_grad for p in made.module.parameters())
    assert all(n.track_running_stats for n in made.module.modules() if isinstance(n, torch.nn.BatchNorm2d))
    assert right(teacher, tiny_images) > 0.95  # of which the repair may cost a little
    assert right(made, tiny_images) > 0.8
    assert all(np.isfinite(list(entry.values())).all() for entry in log.history)
    assert bool(log.history) == repair_class(name).trains


@pytest.mark.parametrize("name", ROWS)
def test_a_touched_teacher_is_noticed(name, teacher, tiny_images, monkeypatch):
    touched, kind = models.build(teacher.spec, teacher.module.net.state_dict()), repair_class(name)
    original = kind.finish

    def touching(self, student, accuracy):
        with torch.no_grad():
            next(touched.module.parameters()).add_(1e-3)
        return original(self, student, accuracy)

    monkeypatch.setattr(kind, "finish", touching)
    with pytest.raises(EdgekdError, match="changed the teacher"):
        repair.run(name, touched, tiny_images, short(name), TRAIN)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ROWS)
def test_it_is_a_function_of_its_seed(name, precision, teacher, tiny_images):
    most = {"steps": 12, "epochs": 1}  # several epochs are held where a run is killed and continued
    options = {key: min(value, most.get(key, value)) for key, value in ROWS[name].items()}

    def made(**train):
        return repair.run(
            name, teacher, tiny_images, options, TRAIN.model_copy(update={"precision": precision, **train})
        )

    one, log = made()
    torch.rand(3)
    two, again = made()
    assert one.sha256 == two.sha256
    timeless = [[{k: v for k, v in e.items() if k != "seconds"} for e in each.history] for each in (log, again)]
    assert timeless[0] == timeless[1]
    assert log.method == again.method
    if repair_class(name).trains and precision == "fp32":
        assert made(seed=1)[1].history[0]["loss"] != log.history[0]["loss"]


@pytest.mark.parametrize("name", TRAINED)
def test_it_continues_with_the_same_bits(name, teacher, tiny_images, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    kind, steps = repair_class(name), []
    # two chunks of ten steps, where a repair counts steps
    monkeypatch.setattr(inspect.getmodule(kind), "CHUNK", 10, raising=False)
    monkeypatch.setitem(ROWS, name, {key: 20 if key == "steps" else value for key, value in ROWS[name].items()})
    whole, uninterrupted = run(name, teacher, tiny_images)
    original, an_epoch = kind.step, uninterrupted.steps // uninterrupted.epochs

    def dying(self, batch):
        if type(self) is kind:  # and not the fine-tuning inside another
            steps.append(1)
        if len(steps) > an_epoch + 2:  # in the second
            raise Killed
        return original(self, batch)

    monkeypatch.setattr(kind, "step", dying)
    with pytest.raises(Killed):
        run(name, teacher, tiny_images, tmp_path)
    monkeypatch.setattr(kind, "step", original)
    made, log = run(name, teacher, tiny_images, tmp_path)
    assert log.resumed_at == 1
    assert made.sha256 == whole.sha256
    read, over = run(name, teacher, tiny_images, tmp_path)  # one that was over when it was found
    assert (read.sha256, over.method) == (whole.sha256, log.method)
    with pytest.raises(UsageError, match="other settings: teacher"):
        run(name, models.build(teacher.spec, seed=5), tiny_images, tmp_path)


def pairs() -> list[Any]:
    """Every family and repair; I-BAU's second derivatives of large networks take long."""
    large = ("resnet", "preact_resnet", "mobilenetv2")
    return [
        pytest.param(family, name, marks=[pytest.mark.slow] if name == "i-bau" and family in large else [])
        for family, name in itertools.product(SMALLEST, ROWS)
    ]


@pytest.mark.parametrize(("family", "name"), pairs())
def test_every_family_is_repaired_or_refused(family, name, tiny_images):
    few = tiny_images.subset(range(32))
    given = models.build(ModelSpec(SMALLEST[family], 4, INPUT))
    options = short(name)
    if family in WITHOUT_NORMS and repair_class(name).needs != "weights":
        with pytest.raises(UsageError, match="that work with it: ft, ft-sam, nad, i-bau"):
            repair.run(name, given, few, options, TRAIN)
        return
    made, _ = repair.run(name, given, few, options, TRAIN)
    assert made.spec.arch == SMALLEST[family]
    assert made.sha256 == models.weights_sha256(made.module.net.state_dict())
    if name in ("ft", "ft-sam", "nad", "i-bau"):
        before = given.module.state_dict()
        moved = [k for k, v in made.module.named_parameters() if not torch.equal(v, before[k])]
        assert len(moved) > 0.5 * len(list(given.module.parameters()))


@pytest.mark.parametrize("name", ROWS)
def test_what_does_not_fit_is_refused(name, teacher, tiny_images):
    with pytest.raises(UsageError, match=f"The repair '{name}' has no setting 'sise'"):
        repair.run(name, teacher, tiny_images, {"sise": 1}, TRAIN)
    large = models.build(ModelSpec("wrn-10-1", 4, InputSpec(3, 32, 32, INPUT.mean, INPUT.std)))
    with pytest.raises(UsageError, match="the teacher wrn-10-1 takes"):
        repair.run(name, large, tiny_images, {}, TRAIN)
    fewer = models.build(ModelSpec("wrn-10-1", 3, INPUT))
    with pytest.raises(UsageError, match="of 4 classes"):
        repair.run(name, fewer, tiny_images, {}, TRAIN)
    graph = Model(ModelSpec("onnx", 4, INPUT), models.Network(torch.nn.Identity(), INPUT).eval())
    with pytest.raises(UsageError, match="instead of an ONNX graph"):
        repair.run(name, graph, tiny_images, {}, TRAIN)


def test_a_misspelt_repair_is_told():
    with pytest.raises(UsageError, match="Did you mean 'ft-sam'"):
        repair_class("ftsam")
