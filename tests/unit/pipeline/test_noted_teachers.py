"""A teacher that edgekd wrote itself: what stands beside its weights is used, unless the user says otherwise."""

from pathlib import Path

import numpy as np
import pytest

from edgekd import __version__, checkpoints, models, targets
from edgekd.config import resolve
from edgekd.errors import UnsafeInput, UsageError
from edgekd.files import canonical_json, read_json, sha256_bytes, write_json
from edgekd.pipeline import RunFolder, intake
from edgekd.pipeline.stages import Stages
from edgekd.types import InputSpec, ModelSpec

SPEC = ModelSpec("resnet8-w4", 4, InputSpec(3, 16, 16, (0.31, 0.32, 0.33), (0.7, 0.8, 0.9)))


@pytest.fixture
def teacher(tmp_path):
    made, file = models.build(SPEC, seed=0), tmp_path / "teacher.safetensors"
    checkpoints.save(file, models.weights(made), {"spec": SPEC.to_json()})
    return file


def config(teacher, **flags):
    return resolve(None, {"teacher": str(teacher), "data": "unused", **flags})


def test_input_and_architecture_come_from_the_note(teacher, tiny_images, monkeypatch):
    monkeypatch.setattr(intake, "NEAR_CHANCE", -1)  # fresh weights
    monkeypatch.setattr(intake.metrics.Rate, "interval", lambda self: (1.0, 1.0))
    model, about = intake.load_teacher(config(teacher), tiny_images)
    assert model.spec == SPEC
    assert about["normalization"] == {"how": "noted beside the weights"}
    model, about = intake.load_teacher(config(teacher, normalize="0.5,0.5,0.5/1,1,1"), tiny_images)
    assert model.spec.input.mean == (0.5, 0.5, 0.5)
    assert about["normalization"] == {"how": "given"}


def test_of_images_sorted_by_class_all_classes_are_looked_at(teacher, bars, monkeypatch):
    """As a folder gives them: the first images would be of one class, and the wrong normalisation as good as the right one."""
    images = bars(3000)
    images = images.subset(np.argsort(images.labels, kind="stable"))
    seen = []

    def detect(spec, tensors, pixels, labels):
        seen.append(labels)
        return spec.input, {}

    monkeypatch.setattr(intake.models, "detect_normalization", detect)
    monkeypatch.setattr(intake.models, "normalization_note", lambda _: "")
    monkeypatch.setattr(intake, "about_chance", lambda *_: False)
    bare = teacher.with_name("bare.safetensors")
    checkpoints.save(bare, models.weights(models.build(SPEC, seed=0)), {})
    _, about = intake.load_teacher(config(bare), images)
    assert len(seen[0]) == intake.LOOKED_AT
    assert np.bincount(seen[0][:40], minlength=4).tolist() == [10, 10, 10, 10]
    assert 0 < about["validation_acc"] < 1


def test_a_corrected_note_is_read_and_without_one_the_key_is_as_it_was(teacher, tiny_images, tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "NEAR_CHANCE", 0)  # fresh weights
    monkeypatch.setattr(intake.metrics.Rate, "interval", lambda self: (1.0, 1.0))
    parts, given = {"train": tiny_images, "validation": tiny_images}, {"arch": SPEC.arch, "normalize": "half"}

    def stages(out, **flags):
        with RunFolder(tmp_path / out).open(config(teacher, **flags)) as folder:
            made = Stages(config(teacher, **flags), folder, parts, targets.get("cpu"), None)
            made.intake()
            return made

    assert stages("noted").noted == {"teacher_spec": SPEC.to_json()}
    note, right = read_json(f"{teacher}.json"), InputSpec(3, 16, 16, (0.5,) * 3, (0.25,) * 3)
    note["metadata"]["spec"]["input"] = right.to_json()
    write_json(f"{teacher}.json", note)
    again = stages("noted")
    assert again.teacher.spec.input == right
    assert again.noted["teacher_spec"]["input"] == right.to_json()
    Path(f"{teacher}.json").unlink()
    bare = stages("bare", **given)
    assert bare.noted == {}
    inputs = {"teacher": checkpoints.digest(teacher), **given, "validation": tiny_images.sha256}
    key = sha256_bytes(canonical_json({"inputs": inputs, "version": __version__}).encode())
    assert read_json(tmp_path / "bare" / "work" / "intake" / "key.json") == key


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"arch": "antigravity:fly"}, UnsafeInput, "code that would have to run"),
        ({"input": None}, UsageError, "does not say which network"),
        ({"arch": ["x"]}, UsageError, "does not say which network"),
        ({"arch": 5}, UsageError, "does not say which network"),
        ({"input": {**SPEC.input.to_json(), "mean": "abc"}}, UsageError, "does not say which network"),
        ({"input": {**SPEC.input.to_json(), "mean": [[1], 2, 3]}}, UsageError, "does not say which network"),
        ({"input": {**SPEC.input.to_json(), "height": "16"}}, UsageError, "does not say which network"),
        ({"num_classes": None}, UsageError, None),
    ],
)
def test_a_bad_note_is_refused(teacher, tiny_images, change, error, message):
    note = read_json(f"{teacher}.json")
    note["metadata"]["spec"].update(change)
    if message is None:
        note["sha256"] = "0" * 64
    write_json(f"{teacher}.json", note)
    with pytest.raises(error, match=message or "does not describe the weights"):
        intake.load_teacher(config(teacher), tiny_images)
