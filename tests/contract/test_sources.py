"""Every image source through the same checks: pixels in range, a function of the seed, continued with the same bits."""

import numpy as np
import pytest
import torch

from edgekd import datafree, distill, models
from edgekd.config import resolve
from edgekd.datafree import View
from edgekd.datafree.run import source_class
from edgekd.datafree.told import Told
from edgekd.distill.abd import AbdSettings
from edgekd.errors import UsageError
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, ModelSpec

SOURCES = list(datafree.SOURCES)
# What makes a source quick enough for a test; every source needs a row.
QUICK = {
    "patches": {"images": 64},
    "zskt": {"rounds": 2, "student_steps": 2, "width": 8},
    "cmi": {"images": 16, "inversion_steps": 2, "student_steps": 4, "width": 8, "bank": 20, "negatives": 8},
}
TRAIN = TrainConfig(epochs=2, batch_size=16, lr=0.02, precision="fp32")
VACCINE = datafree.VaccineSettings(pool=64, copies=2, accept="always")
ABD = AbdSettings(retrospection=True, retrospect={"steps": 2, "inner_steps": 1, "max_drop": 1.0})


class Killed(BaseException):
    pass


def spec(arch="resnet8-w4"):
    return ModelSpec(arch, 4, InputSpec(3, 16, 16, (0.4, 0.5, 0.45), (0.2, 0.25, 0.3)))


@pytest.fixture(scope="module")
def teacher(few_images):
    """One that knows the images."""
    model, _ = distill.run(None, spec(), few_images, "scratch", {}, TRAIN.model_copy(update={"epochs": 8, "lr": 0.05}))
    model.module.requires_grad_(False)
    return model


@pytest.fixture
def made(photo, teacher):
    """A function from a source's name to the source."""

    def make(name, vaccine=None, **train):
        options = {**QUICK[name], **({"image": photo} if name == "patches" else {})}
        return datafree.make(name, options, teacher, TRAIN.model_copy(update=train), vaccine)

    return make


@pytest.fixture
def opened(made, teacher):
    """An open source, and the teacher that it tells its answers."""

    def open_(name, vaccine=None, **train):
        source, told = made(name, vaccine, **train), Told(teacher.module)
        source.open(View(told, models.build(spec(), seed=1).module, torch.device("cpu"), None, teacher.sha256))
        return source, told

    return open_


def state(source):
    return [tensor.clone() for part in source.modules() for tensor in part.state_dict().values()]


@pytest.mark.parametrize("name", SOURCES)
def test_its_settings_are_frozen_documented_and_fit_both_profiles(name):
    kind = source_class(name)
    assert kind.__doc__
    settings = kind.Config()
    assert kind.Config.model_validate(settings.model_dump(mode="json")) == settings
    assert all(field.description for field in kind.Config.model_fields.values())
    for profile in ("fast", "full"):
        config = resolve(None, {"teacher": "t.pt", "data": "none", "source": name, "profile": profile})
        assert config.source["name"] == name
        assert config.options("kd")["alpha"] == 1.0  # labels would be the teacher's own
        assert config.controls == ()


@pytest.mark.parametrize("name", SOURCES)
def test_batches_are_pixels_with_the_teachers_answers(name, opened, teacher):
    source, told = opened(name)
    batches = list(source.epoch(0))
    assert len(batches) == source.steps
    for images, labels, index in batches:
        assert images.shape == (16, 3, 16, 16)
        assert images.dtype == torch.float32
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        assert labels.dtype == index.dtype == torch.int64
        assert labels.shape == index.shape == (16,)
        assert not images.requires_grad
    with torch.no_grad():
        asked = teacher.module(images)
    assert torch.equal(asked.argmax(1), labels)
    kept = sum(t.nbytes for part in source.modules() for t in part.state_dict().values() if t.dim() > 2)
    kept += sum(array.nbytes for array in source.pool[:2]) if name == "patches" else 0
    assert source.kept_bytes(teacher.module) == (0 if name == "zskt" else kept)
    known = told(images)
    assert known is told(images)  # from memory
    torch.testing.assert_close(known, asked, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SOURCES)
def test_it_is_a_function_of_its_seed(name, opened):
    first, second, other = (opened(name, seed=seed)[0] for seed in (0, 0, 1))
    torch.rand(3)
    pictures = [torch.cat([batch.images for batch in source.epoch(0)]) for source in (first, second, other)]
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])
    collected = [first.collect(20, 3), second.collect(20, 3), first.collect(20, 4)]
    assert collected[0].dtype == np.uint8
    assert collected[0].shape[1:] == (3, 16, 16)
    assert np.array_equal(collected[0], collected[1])
    assert not np.array_equal(collected[0], collected[2])


@pytest.mark.parametrize("name", SOURCES)
def test_it_stands_still_when_told_to(name, opened):
    source, _ = opened(name)
    list(source.epoch(0))
    source.still, before = True, state(source)
    classes = source.report["classes"]
    assert len(classes) == 4
    assert sum(classes) > 0
    list(source.epoch(1))
    assert all(torch.equal(a, b) for a, b in zip(before, state(source), strict=True))
    assert source.view.student.training is False


@pytest.mark.parametrize("name", SOURCES)
def test_a_killed_run_ends_with_the_same_bits(name, made, teacher, tmp_path, monkeypatch):
    from edgekd.distill.kd import LogitDistillation
    from edgekd.distill.retrospection import SelfRetrospection

    def run(folder=None):
        return distill.distill_defended(
            teacher, spec(), made(name, VACCINE, epochs=3), "kd", {"alpha": 1.0}, TRAIN.model_copy(update={"epochs": 3}),
            ABD, accuracy=lambda network: 0.5, folder=folder,
        )  # fmt: skip

    whole, log = run()
    assert log.epochs == 4
    assert log.method["source"]["vaccine"]["accepted"]
    steps = []

    def dying(kind, after):
        original = kind.step

        def step(self, batch):
            steps.append(1)
            if len(steps) == after:
                raise Killed
            return original(self, batch)

        monkeypatch.setattr(kind, "step", step)
        with pytest.raises(Killed):
            run(tmp_path)
        monkeypatch.setattr(kind, "step", original)
        steps.clear()

    dying(LogitDistillation, 7)  # four steps an epoch: in the second
    dying(SelfRetrospection, 2)
    again, continued = run(tmp_path)
    assert again.sha256 == whole.sha256
    assert continued.method == log.method


@pytest.mark.parametrize("name", SOURCES)
def test_methods_that_need_labels_are_refused_and_others_run(name, made, teacher):
    for method in ("scratch", "finetune", "disk", "robustkd", "robustkd-plus"):
        with pytest.raises(UsageError, match="labels of their own"):
            distill.check(teacher, spec(), made(name), method, {})
    one = TRAIN.model_copy(update={"epochs": 1, "precision": "bf16"})
    student, _ = distill.run(teacher, spec("resnet8-w8"), made(name, epochs=1, precision="bf16"), "at", {}, one)
    assert student.spec.arch == "resnet8-w8"
    if source_class(name).fixed:
        distill.check(teacher, spec(), made(name), "crd", {})
        return
    with pytest.raises(UsageError, match="keeps something for every image"):
        distill.check(teacher, spec(), made(name), "crd", {})
    with pytest.raises(UsageError, match="not kept"):
        made(name).once()


def test_teachers_that_lack_what_a_source_needs_are_refused_by_name(teacher):
    from edgekd.models.wrap import Network
    from edgekd.types import Model

    bare = Model(spec("onnx"), Network(torch.nn.Sequential(torch.nn.Flatten()), spec().input))
    for name in ("zskt", "cmi"):
        with pytest.raises(UsageError, match=r"needs gradients.*patches"):
            datafree.make(name, {}, bare, TRAIN)
    datafree.make("patches", {}, bare, TRAIN)
    with pytest.raises(UsageError, match=r"abd.vaccine=false"):
        datafree.make("patches", {}, bare, TRAIN, VACCINE)
    plain = Model(spec("user"), Network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), spec().input))
    with pytest.raises(UsageError, match="batch norms"):
        datafree.make("cmi", {}, plain, TRAIN)
    with pytest.raises(UsageError, match="Did you mean 'zskt'"):
        datafree.make("zskd", {}, teacher, TRAIN)
    with pytest.raises(UsageError, match="no setting 'round'"):
        datafree.make("zskt", {"round": 3}, teacher, TRAIN)
