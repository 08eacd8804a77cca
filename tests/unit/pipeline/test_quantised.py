"""INT8 twins as stages of a run: the guard first, then distillation where it does not suffice, and what the record says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd import models
from edgekd.config import RunConfig, resolve
from edgekd.data import ImageSet
from edgekd.pipeline.folder import RunFolder
from edgekd.pipeline.quantised import Material, Passing, Twins
from edgekd.quantize import PtqConfig, ptq
from edgekd.types import InputSpec, Model, ModelSpec

CLASSES = tuple("0123456789")
# no layer may stay float, the largest value seen sets each scale, and a few fast steps: INT8 errs, and can learn
TRAINED = (
    "quantize.guard.max_drop=0", "quantize.guard.most_float=0", "quantize.calibrator=max", "quantize.images=32",
    "quantize.qad.steps=4", "quantize.qad.batch_size=16", "quantize.qad.lr=0.003", "train.augment=none",
)  # fmt: skip


@pytest.fixture(scope="module")
def student() -> Model:
    inputs = InputSpec(3, 32, 32, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
    model = models.build(ModelSpec("cnn3", 10, inputs), seed=0)
    layers = [part for part in model.module.modules() if isinstance(part, torch.nn.Linear)]
    layers[-1].weight.data.mul_(10)
    return model


@pytest.fixture(scope="module")
def images(student: Model) -> Material:
    """Smooth pictures with the student's own answers; validation: those that it is least sure of."""
    noise = torch.rand(400, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    smooth = torch.nn.functional.interpolate(noise, size=(32, 32), mode="bicubic").clamp(0, 1)
    pixels = (smooth * 255).round().to(torch.uint8)
    with torch.no_grad():
        logits = student.module(pixels.float() / 255)
    best = logits.topk(2).values
    unsure = (best[:, 0] - best[:, 1]).argsort().numpy()
    everything = ImageSet(pixels.numpy(), logits.argmax(1).numpy(), CLASSES, "made up")
    return Material(everything.subset(np.arange(32)), everything.subset(unsure[100:]), everything.subset(unsure[:100]))


def configured(*overrides: str) -> RunConfig:
    return resolve(None, {"teacher": "t.pt", "data": "d"}, overrides)


def twins(student: Model, images: Material, folder: RunFolder, config: RunConfig) -> Twins:
    return Twins(student, images, config, folder)


def same(one: Model, other: Model) -> bool:
    tensors = other.module.state_dict()
    return all(torch.equal(tensors[name], value) for name, value in one.module.state_dict().items())


def test_what_the_guard_accepts_is_the_calibrated_twin(student: Model, images: Material, tmp_path) -> None:
    config = configured("quantize.images=32", "quantize.guard.max_drop=1")
    with RunFolder(tmp_path / "run").open(config) as folder:
        made = twins(student, images, folder, config)
        expected = ptq(student, images.calibration, PtqConfig(images=32))
        assert same(made("u8s8"), expected)
        assert made.distilled("u8s8") == made.logs() == {}
        assert made.doubts() == []
        assert "guard" in made.made_from["quantize"]
    plain = Twins(student, images, configured(), Passing(tmp_path)).made_from["quantize"]
    assert "guard" not in plain
    assert "qad" not in plain


@pytest.mark.parametrize(
    ("given", "allowed", "named"),
    [
        ([], 0.005, "quantize.guard.max_drop"),
        (["gates.max_acc_drop=2"], 0.005, "quantize.guard.max_drop"),
        (["gates.max_acc_drop=0.5"], 0.005, "quantize.guard.max_drop"),
        (["gates.max_acc_drop=0.2"], 0.002, "--max-acc-drop"),
        (["gates.max_acc_drop=2", "quantize.guard.max_drop=0.03"], 0.02, "--max-acc-drop"),
    ],
)
def test_int8_alone_may_cost_no_more_than_all_that_ships_may(
    given: list[str], allowed: float, named: str, student: Model, images: Material, tmp_path
) -> None:
    made = Twins(student, images, configured(*given), Passing(tmp_path))
    assert (made.settings.guard.max_drop, made.limit) == (pytest.approx(allowed), named)
    assert ("guard" in made.made_from["quantize"]) == (allowed != 0.005)  # else what was made before is still good


def test_what_it_does_not_accept_is_distilled_and_found_again(student: Model, images: Material, tmp_path) -> None:
    """The second look is that of a run that was killed after the stage: from its files, without training."""
    config = configured(*TRAINED)
    with RunFolder(tmp_path / "run").open(config) as folder:
        first = twins(student, images, folder, config)
        made, twin = first.made("u8s8"), first("u8s8")
        assert made["calibrated"] < made["reached"] <= made["float"] == 1.0
        assert not same(twin, ptq(student, images.calibration, PtqConfig(calibrator="max", images=32)))
        said = first.logs()["qad u8s8"]["method"]["qad"]
        assert said["images"] == {"count": 300, "sha256": images.transfer.sha256}
        assert (said["before"], said["after"], said["kept"]) == (made["calibrated"], made["reached"], True)
        again = twins(student, images, folder, config)
        assert again.distilled("u8s8") == first.distilled("u8s8") != {}
        assert same(again("u8s8"), twin)
        assert again.logs() == first.logs()
        assert again.doubts() == first.doubts()


def test_switched_off_the_guard_has_the_last_word(student: Model, images: Material, tmp_path) -> None:
    config = configured(*TRAINED, "quantize.guard.max_drop=1", "gates.max_acc_drop=0", "quantize.qad=off")
    made = Twins(student, images, config, Passing(tmp_path))
    assert same(made("u8s8"), ptq(student, images.calibration, PtqConfig(calibrator="max", images=32)))
    assert made.logs() == {}
    (said,) = made.doubts()
    assert "more than the 0 points that --max-acc-drop allows; quantize.guard.most_float ended the search with " in said
    assert said.endswith(" more layers to try. The calibrated twin ships.")
