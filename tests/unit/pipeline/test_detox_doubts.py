"""A training that left a site's variance as it was is doubted in the record."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekd import checkpoints, models
from edgekd.config import resolve
from edgekd.data import ImageSet
from edgekd.pipeline.stages import Stages
from edgekd.types import InputSpec, ModelSpec


@pytest.mark.parametrize(("ratios", "said"), [([0.9, 1.0], "1.000 at site 1"), ([0.9, 0.8], None), (None, None)])
def test_a_variance_that_was_not_lowered_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, ratios: list[float] | None, said: str | None
) -> None:
    spec = ModelSpec("resnet8-w4", 2, InputSpec(3, 32, 32, (0.5,) * 3, (0.5,) * 3))
    method: dict[str, Any] = {} if ratios is None else {"detox": {"variance_ratio": ratios, "within_max_drop": True}}
    stages = Stages.__new__(Stages)
    about = {"teacher": "teacher.pt", "data": "data.npz"}
    stages.config = resolve(None, about, ["train.epochs=1"])
    part = ImageSet(np.zeros((4, 3, 8, 8), np.uint8), np.zeros(4, np.int64), ("a",), "test")
    stages.parts, stages.device = {"train": part, "validation": part}, "cpu"
    stages.teacher, stages.logs, stages.warnings = SimpleNamespace(sha256="1" * 64), {}, []  # type: ignore[assignment]
    stages.noted = {}
    stages.folder = SimpleNamespace(  # type: ignore[assignment]
        stage=lambda *_: {"log": {"method": method}}, file=lambda *names: names
    )
    monkeypatch.setattr(Stages, "_write_metrics", lambda _: None)
    monkeypatch.setattr(checkpoints, "load_student", lambda _: ({}, {}))
    monkeypatch.setattr(models, "build", lambda spec, _: spec)
    stages.train("robustkd", spec)
    assert len(stages.warnings) == (said is not None)
    assert stages._schedule().epochs == 1
    stages.config = resolve(None, about, ["train.epochs=1", "train.least_shown=12"])
    assert stages._schedule().epochs == 3, "of four images"
    assert stages._schedule().precision in ("bf16", "fp32")
    assert said is None or said in stages.warnings[0]
