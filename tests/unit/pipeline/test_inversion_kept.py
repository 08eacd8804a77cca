"""A killed trigger inversion goes on with the class it was at; what another search left counts for nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd import models
from edgekd.audit import inversion as searching
from edgekd.data import ImageSet
from edgekd.pipeline import inversion
from edgekd.types import InputSpec, ModelSpec

CLASSES, KILLED_AT = 6, 3
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 3, 12, 12)).astype(np.uint8)
IMAGES = ImageSet(PIXELS, np.arange(60) % CLASSES, tuple("abcdef"))
SPEC = ModelSpec("resnet8", CLASSES, InputSpec(3, 12, 12, (0.5,) * 3, (0.25,) * 3))


def killed(stage: str, done: int, total: int, figures: Any) -> None:
    if done == KILLED_AT:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return models.build(SPEC)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The classes that are searched, in order."""
    targets: list[int] = []
    search = searching.smallest_patch

    def noted(predict: Any, batches: Any, target: int) -> Any:
        targets.append(target)
        return search(predict, batches, target)

    monkeypatch.setattr(searching, "smallest_patch", noted)
    return targets


def invert(model: Any, folder: Path, **settings: Any) -> dict[str, Any]:
    table = inversion.invert(model, IMAGES, folder, **{"steps": 8, "seed": 0, "device": "cpu", **settings}).table
    return {key: value for key, value in table.items() if key != "seconds"}


def test_a_killed_search_goes_on(model: Any, tmp_path: Path, searched: list[int]) -> None:
    whole = invert(model, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        invert(model, tmp_path / "killed", progress=killed)
    searched.clear()
    assert invert(model, tmp_path / "killed") == whole
    assert set(searched) == {3, 4, 5}
    assert not list((tmp_path / "killed").glob("searched*"))


def test_another_search_begins_anew(model: Any, tmp_path: Path, searched: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt):
        invert(model, tmp_path, progress=killed)
    searched.clear()
    invert(model, tmp_path, seed=1)
    assert set(searched) == set(range(CLASSES))


def test_a_damaged_file_costs_time_alone(model: Any, tmp_path: Path, searched: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt):
        invert(model, tmp_path, progress=killed)
    (tmp_path / inversion.SEARCHED).write_bytes(b"nothing")
    searched.clear()
    invert(model, tmp_path)
    assert set(searched) == set(range(CLASSES))
