"""Input normalisation: given, or found on validation images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd import models
from edgekd.errors import UsageError
from edgekd.types import InputSpec, ModelSpec


class ByBrightness(torch.nn.Module):
    """Class 1 where the normalised mean is above zero: right only under the normalisation it expects."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


ARCH = f"{__name__}:ByBrightness"


def bright_and_dark(channels: int, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(0)
    levels = np.clip(threshold * 255 + random.uniform(-90, 90, 300), 0, 255)
    images = np.repeat(levels.astype(np.uint8), channels * 64).reshape(300, channels, 8, 8)
    return images, (levels.astype(np.uint8) > threshold * 255).astype(np.int64)


def test_the_preset_under_which_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("sys").modules[__name__])
    images, labels = bright_and_dark(3, 0.5)
    spec = ModelSpec(ARCH, 2, InputSpec(3, 8, 8, (0.0,) * 3, (1.0,) * 3))
    inputs, accuracies = models.detect_normalization(spec, {}, images, labels)
    assert (inputs.mean, inputs.std) == ((0.5,) * 3, (0.5,) * 3)
    assert accuracies["half"] == 1
    assert accuracies["none"] == pytest.approx(labels.mean(), abs=0.1)
    assert models.normalization_note(accuracies) == ""


def test_a_model_already_built_will_do_and_other_channels_are_skipped() -> None:
    images, labels = bright_and_dark(1, 0.13066)
    model = models.build(ModelSpec(ARCH, 2, InputSpec(1, 8, 8, (0.0,), (1.0,))))
    inputs, accuracies = models.detect_normalization(model.spec, model, images, labels)
    assert inputs.mean == (0.13066,)
    assert set(accuracies) == {name for name, (mean, _) in models.NORMALIZATIONS.items() if len(mean) == 1}


def test_labels_that_the_network_does_not_know_are_wrong_not_fatal() -> None:
    images, labels = bright_and_dark(1, 0.5)
    model = models.build(ModelSpec(ARCH, 2, InputSpec(1, 8, 8, (0.0,), (1.0,))))
    _, accuracies = models.detect_normalization(model.spec, model, images, labels + 5)
    assert set(accuracies.values()) == {0.0}


def test_close_calls_are_told() -> None:
    note = models.normalization_note({"a": 0.9, "b": 0.895, "c": 0.5})
    assert "a 90.0%" in note
    assert "b 89.5%" in note
    assert "c" not in note.split(" are about ")[0].removeprefix("Input normalisations")
    assert "--normalize" in note
    assert models.normalization_note({"a": 0.9}) == ""


def test_presets_and_figures() -> None:
    assert models.normalization(None, 3) == models.normalization("auto", 3) == ((0.0,) * 3, (1.0,) * 3)
    assert models.normalization(([0.5], [0.2]), 2) == ((0.5, 0.5), (0.2, 0.2))
    assert all(len(mean) == len(std) for mean, std in models.NORMALIZATIONS.values())
    for wrong in ("imagenet", ((0.1, 0.2), (0.1, 0.2)), ((0.0,), (0.0,))):
        with pytest.raises(UsageError, match="1 means"):
            models.normalization(wrong, 1)


def test_what_a_student_sees() -> None:
    plain = InputSpec(3, 32, 32, (0.0,) * 3, (1.0,) * 3)
    assert models.student_normalization(plain) == ((0.5,) * 3, (0.5,) * 3)
    other = InputSpec(1, 32, 32, (0.1307,), (0.3081,))
    assert models.student_normalization(other) == ((0.1307,), (0.3081,))


def test_layer_by_hand() -> None:
    layer = models.Normalize((0.5, 0.25), (0.5, 2.0))
    pixels = torch.tensor([1.0, 0.75]).view(1, 2, 1, 1)
    assert layer(pixels).flatten().tolist() == [1.0, 0.25]
    assert models.Normalize((0.0,), (1.0,))(pixels) is pixels
    assert layer.state_dict() == {}
