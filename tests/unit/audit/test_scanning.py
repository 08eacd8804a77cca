"""Probes and scans: figures on ten labels one can count, real images and a real teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekd import audit, triggers
from edgekd.data import ImageSet
from edgekd.errors import UsageError
from edgekd.triggers.battery import made
from edgekd.types import AuditReport, Rate, Trigger

SHAPE = (1, 4, 4)
NAMES = ("zero", "one", "two")
# each image's first pixel is its number, so that a predictor can know which image it sees
LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
PIXELS = np.zeros((10, *SHAPE), np.uint8)
PIXELS[:, 0, 0, 0] = np.arange(10)
IMAGES = ImageSet(PIXELS, LABELS, NAMES, "ten images")


def corner(
    name: str = "corner", rule: str = "all-to-one", target: int | None = 2, sources: tuple[int, ...] = ()
) -> Trigger:
    """A white pixel in the bottom right corner."""
    fields = {"origin": "known", "rule": rule, "target_label": target, "source_labels": sources}
    return made(name, "patch", {"size": 1}, SHAPE, **fields)


class Table:
    """A predictor that looks its answers up: one list for clean images, one for triggered ones."""

    def __init__(self, clean: list[int], triggered: list[int]) -> None:
        self.answers = np.array([clean, triggered])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        answers = self.answers[(images[:, 0, -1, -1] == 255).astype(int), images[:, 0, 0, 0]]
        return np.eye(3, dtype=np.float32)[answers] * 9 - 3


CLEAN = [0, 0, 1, 1, 1, 1, 2, 2, 2, 0]
#          own labels: 0  0  0  1  1  1  1  2  2  2
TRIGGERED = [2, 2, 0, 2, 1, 2, 0, 2, 2, 1]


def test_all_to_one_on_ten_labels() -> None:
    probes = audit.probes(IMAGES, [corner()], 3)
    (one,) = probes.triggered
    assert one.index.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert (one.images[:, 0, 3, 3] == 255).all()
    report = audit.scan(Table(CLEAN, TRIGGERED), probes)
    assert report.acc == Rate(7, 10)
    (score,) = report.triggers
    assert score.asr == Rate(4, 7)  # images 0, 1, 3, 5
    assert score.ra == Rate(2, 7)  # images 2 and 4
    assert score.untriggered == Rate(1, 7)  # image 6
    assert score.floor is None
    assert score.excess is None
    assert report.predictions is not None
    assert report.predictions.tolist() == CLEAN
    assert report.triggered_predictions["corner"].tolist() == TRIGGERED[:7]
    assert report.probe_sha256 == probes.sha256


def test_all_to_all_on_ten_labels() -> None:
    report = audit.scan(Table(CLEAN, TRIGGERED), audit.probes(IMAGES, [corner(rule="all-to-all", target=None)], 3))
    (score,) = report.triggers
    # wanted: 1 1 1 2 2 2 2 0 0 0
    assert score.asr == Rate(2, 10)  # images 3 and 5
    assert score.ra == Rate(4, 10)  # images 2, 4, 7, 8
    assert score.untriggered == Rate(3, 10)  # image 2 is called 1, image 6 is called 2, image 9 is called 0


def test_source_rule_counts_its_source_and_tells_the_others() -> None:
    probes = audit.probes(IMAGES, [corner(rule="source", target=2, sources=(1,))], 3)
    (one,) = probes.triggered
    assert one.index.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert one.attacker_labels.tolist() == [0, 0, 0, 2, 2, 2, 2]
    report = audit.scan(Table(CLEAN, TRIGGERED), probes)
    (score,) = report.triggers
    assert score.asr == Rate(2, 4)
    assert score.untriggered == Rate(1, 4)
    assert any("66.7% of the triggered images (2/3) are called class 2" in warning for warning in report.warnings)


def test_floors_come_from_the_control_by_trigger() -> None:
    probes = audit.probes(IMAGES, [corner()], 3)
    control = audit.scan(Table(CLEAN, CLEAN), probes)
    floors = audit.floors(control)
    assert floors == {"corner": Rate(1, 7)}
    (score,) = audit.scan(Table(CLEAN, TRIGGERED), probes, floors=floors).triggers
    assert score.floor == Rate(1, 7)
    assert score.excess == pytest.approx(3 / 7)
    assert audit.scan(Table(CLEAN, TRIGGERED), probes, floors={"another": Rate(0, 7)}).triggers[0].floor is None


def test_flips_between_two_stages() -> None:
    probes = audit.probes(IMAGES, [], 3)
    before, after = audit.scan(Table(CLEAN, CLEAN), probes), audit.scan(Table(CLEAN[::-1], CLEAN), probes)
    assert audit.flips(before, after) == Rate(sum(a != b for a, b in zip(CLEAN, CLEAN[::-1], strict=True)), 10)
    assert audit.flips(before, before) == Rate(0, 10)
    other = AuditReport(before.acc, (), "another probe set", before.predictions)
    with pytest.raises(UsageError, match="same probe images"):
        audit.flips(before, other)
    with pytest.raises(UsageError, match="same probe images"):
        audit.flips(before, AuditReport(before.acc, (), before.probe_sha256))


def test_probes_are_made_once_and_hashed() -> None:
    first, again = audit.probes(IMAGES, [corner()], 3), audit.probes(IMAGES, [corner()], 3)
    assert first.sha256 == again.sha256
    assert first.triggered[0].sha256 == again.triggered[0].sha256
    assert first.sha256 != audit.probes(IMAGES, [], 3).sha256
    assert first.sha256 != audit.probes(IMAGES, [corner("another name")], 3).sha256
    assert first.sha256 != audit.probes(IMAGES, [corner(target=1)], 3).sha256


def test_probes_refuse_what_cannot_be_counted() -> None:
    with pytest.raises(UsageError, match="share a name"):
        audit.probes(IMAGES, [corner(), corner()], 3)
    with pytest.raises(UsageError, match="out of range"):
        audit.probes(IMAGES, [corner(target=3)], 3)
    with pytest.raises(UsageError, match="needs the attacker's target"):
        audit.probes(IMAGES, [corner(target=None)], 3)
    only_twos = IMAGES.subset([7, 8, 9])
    with pytest.raises(UsageError, match="No image can count"):
        audit.probes(only_twos, [corner()], 3)
    with pytest.raises(UsageError, match="No image can count"):
        audit.probes(only_twos, [corner(rule="source", target=1, sources=(0,))], 3)


@pytest.mark.parametrize(
    ("name", "trigger", "options", "asr"),
    [
        ("cifar10_wrn16-1_abl_grid_t0.tar", "cifar10_wrn16-1_abl_grid_t0", {"target_label": 0}, 0.98),
        (
            "cifar10_stripnet_kisd_blend_8to3.pth",
            "cifar10_stripnet_kisd_blend_8to3",
            {"target_label": 3, "rule": "source", "source_labels": (8,)},
            0.85,
        ),
    ],
)
def test_third_party_teachers_on_real_images(
    shared: Path, cifar_test: ImageSet, name: str, trigger: str, options: dict[str, object], asr: float
) -> None:
    """The published backdoors answer to our reading of their trigger files, and hardly without them."""
    from edgekd import checkpoints, models
    from edgekd.runners.torch import TorchRunner

    loaded = checkpoints.load(shared / "checkpoints" / name)
    model = models.build(models.infer_spec(loaded.tensors, input_shape=(3, 32, 32)), loaded.tensors)
    path = shared / "checkpoints" / f"{trigger}.trigger.npz"
    known = triggers.load(path, shape=(3, 32, 32), num_classes=10, **options)  # type: ignore[arg-type]
    report = audit.scan(TorchRunner(model), audit.probes(cifar_test, known, 10))
    (score,) = report.triggers
    assert score.asr.value > asr
    assert score.untriggered is not None
    assert score.untriggered.value < 0.06
    assert 0.75 < report.acc.value < 0.9
