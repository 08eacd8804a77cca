"""A teacher that edgekd wrote itself: what stands beside its weights is used, unless the user says otherwise."""

import pytest

from edgekd import checkpoints, models
from edgekd.config import resolve
from edgekd.errors import UnsafeInput, UsageError
from edgekd.files import read_json, write_json
from edgekd.pipeline import intake
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
    monkeypatch.setattr(intake, "NEAR_CHANCE", 0)  # fresh weights
    monkeypatch.setattr(intake.metrics.Rate, "interval", lambda self: (1.0, 1.0))
    model, about = intake.load_teacher(config(teacher), tiny_images)
    assert model.spec == SPEC
    assert about["normalization"] == {"how": "noted beside the weights"}
    model, about = intake.load_teacher(config(teacher, normalize="0.5,0.5,0.5/1,1,1"), tiny_images)
    assert model.spec.input.mean == (0.5, 0.5, 0.5)
    assert about["normalization"] == {"how": "given"}


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
    with pytest.raises(error, match=message or "describes other weights"):
        intake.load_teacher(config(teacher), tiny_images)
