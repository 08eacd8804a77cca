"""Pictures, stored audits, environment, class names, normalisation words."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from edgekd import targets
from edgekd.errors import UnsafeInput, UsageError
from edgekd.pipeline import environment, intake, pictures, sabotage
from edgekd.pipeline.predictions import load_audit, save_audit
from edgekd.pipeline.shipment import Shipment
from edgekd.pipeline.stages import Stages, padded
from edgekd.types import AuditReport, InputSpec, ModelSpec, OnnxFile, Rate, TriggerScore


def test_a_nasty_network_that_lost_more_than_two_points_is_warned_of() -> None:
    assert sabotage.useless(Rate(94, 100), Rate(96, 100)) == []
    assert sabotage.useless(Rate(97, 100), Rate(96, 100)) == []
    (said,) = sabotage.useless(Rate(54, 100), Rate(96, 100))
    assert "lost 42.0 points of ACC" in said


@pytest.mark.parametrize(
    ("shape", "size"),
    [((3, 8, 8), (128, 128)), ((1, 28, 28), (112, 112)), ((3, 300, 200), (85, 128)), ((3, 100, 80), (80, 100))],
)
def test_pictures_are_enlarged_without_smoothing_or_made_smaller(
    shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(pictures.png(image)))) as made:
        assert made.size == size
        if size[0] % shape[2] == 0 and size[0] > shape[2]:
            factor = size[0] // shape[2]
            pixels = np.asarray(made)[::factor, ::factor]
            assert np.array_equal(pixels, image[0] if shape[0] == 1 else image.transpose(1, 2, 0))


def test_a_stored_audit_comes_back_whole(tmp_path: Path) -> None:
    score = TriggerScore("a", "known", Rate(3, 4), Rate(1, 4), Rate(0, 4), Rate(1, 4))
    other = TriggerScore("b", "canary", Rate(0, 4), Rate(4, 4))
    triggered = {"b": np.array([1, 2]), "a": np.array([3])}
    report = AuditReport(Rate(5, 6), (score, other), "f" * 64, np.array([0, 1, 2]), triggered, warnings=("odd",))
    back = load_audit(tmp_path, save_audit(tmp_path, report))
    assert (back.acc, back.triggers, back.probe_sha256, back.warnings) == (
        report.acc,
        report.triggers,
        "f" * 64,
        ("odd",),
    )
    assert back.predictions is not None
    assert back.predictions.tolist() == [0, 1, 2]
    assert {name: values.tolist() for name, values in back.triggered_predictions.items()} == {"b": [1, 2], "a": [3]}


def test_the_environment_names_versions_and_nobody() -> None:
    found = environment.describe()
    assert found["torch"]
    assert found["onnxruntime"]
    text = str(found)
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    assert not {"hostname", "user", "path"} & set(found)


def test_the_commit_is_empty_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(environment.commit()) >= 7
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    assert environment.commit.__wrapped__() == ""  # the process keeps its first answer


def test_class_names_for_every_output() -> None:
    assert padded(("ant", "bee"), 4) == ("ant", "bee", "class 2", "class 3")
    assert padded(("ant", "bee"), 2) == ("ant", "bee")


def test_normalisation_in_words() -> None:
    assert intake.parse_normalization("imagenet") == "imagenet"
    assert intake.parse_normalization("0.5,0.5,0.5/0.25,0.25,0.25") == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    for text in ("a/b", "1/2/3", "0.5/"):
        with pytest.raises(UsageError, match="nor mean/std"):
            intake.parse_normalization(text)


@pytest.mark.parametrize(
    ("hits", "share", "classes", "refused"),
    [
        (1400, 0.5, 2, False),  # a two-class teacher of 70 %
        (1080, 0.5, 2, True),
        (1900, 0.95, 2, True),  # always the frequent class
        (1930, 0.95, 2, False),
        (360, 0.1, 10, True),
        (400, 0.1, 10, False),
    ],
)
def test_a_teacher_is_about_chance_where_guessing_does_as_well(
    hits: int, share: float, classes: int, refused: bool
) -> None:
    many = round(2000 * share)
    labels = np.r_[np.zeros(many, np.int64), 1 + np.arange(2000 - many) % (classes - 1)]
    assert intake.about_chance(Rate(hits, 2000), labels, classes) is refused


def test_a_few_images_of_one_class_refuse_no_perfect_teacher() -> None:
    assert not intake.about_chance(Rate(8, 8), np.zeros(8, np.int64), 2)
    assert intake.about_chance(Rate(2, 3), np.arange(3), 3)


def test_a_file_does_not_choose_which_code_runs() -> None:
    intake.refuse_foreign_code("resnet8", None)
    intake.refuse_foreign_code("mine:net", "mine:net")
    for asked in (None, "resnet8", "mine:other"):
        with pytest.raises(UnsafeInput, match="--arch mine:net"):
            intake.refuse_foreign_code("mine:net", asked)
    assert ModelSpec("mine:net", 2, InputSpec(1, 8, 8, (0.0,), (1.0,))).arch == "mine:net"


def exported(flavour: str, hits: int) -> OnnxFile:
    return OnnxFile(f"a/{flavour}.onnx", flavour, "0" * 64, 9, 18, 0.1, Rate(hits, 512))


class Done:
    """A run folder in which the files were exported before."""

    def __init__(self, *files: OnnxFile) -> None:
        self.files = files

    def stage(self, *_: Any) -> dict[str, Any]:
        return {"onnx": [file.to_json() for file in self.files]}

    def file(self, stage: str, name: str) -> Path:
        return Path(stage, name)


class Calibrated:
    """Twins that the guard accepted as they were."""

    made_from: ClassVar[dict[str, Any]] = {}

    def distilled(self, flavour: str) -> dict[str, str]:
        return {}

    def logs(self) -> dict[str, Any]:
        return {}

    def doubts(self) -> list[str]:
        return []


@pytest.mark.parametrize(("hits", "said"), [(512, 0), (496, 0), (495, 1), (0, 1)])
def test_an_int8_file_that_surely_gives_other_labels_is_doubted(hits: int, said: int) -> None:
    assert (Rate(hits, 512).interval()[1] < 0.98) == bool(said)
    shipment = Shipment.__new__(Shipment)
    shipment.stages, shipment.target = Stages.__new__(Stages), targets.get("cpu")
    shipment.stages.warnings, shipment.stages.logs, shipment.twin = [], {}, Calibrated()  # type: ignore[assignment]
    shipment.folder = Done(exported("u8s8", hits), exported("s8", hits), exported("fp16", hits))  # type: ignore[assignment]
    shipment.export()
    found = shipment.stages.warnings
    assert len(found) == 2 * said  # FP16 has a tolerance of its own
    for warning, name, asked in zip(found, ("u8s8", "s8"), (True, False), strict=bool(said)):
        assert warning.startswith(f"{name}.onnx: ")
        assert f"on {hits} of 512 validation images" in warning
        assert ("quantize.reduce_range=true" in warning) == asked


def test_a_teacher_that_has_seen_the_validation_images_is_doubted() -> None:
    stages = Stages.__new__(Stages)
    stages.about_teacher, stages.warnings = {"validation_acc": 0.98}, []
    stages.doubt_validation(Rate(8300, 10_000))
    assert "98.0%" in stages.warnings[0]
    assert "83.0%" in stages.warnings[0]
    stages.warnings = []
    stages.doubt_validation(Rate(9600, 10_000))
    stages.doubt_validation(None)
    assert stages.warnings == []
