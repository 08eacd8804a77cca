"""Gates that a run cannot meet are known before it starts."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.config import resolve
from edgekd.pipeline.unmeetable import unmeetable

BOTH = {"gates.max_asr": 2.0, "gates.max_acc_drop": 5.0}
TRIGGER = {"trigger.file": "patch.npz", "trigger.target_label": 0}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"data": "none", **BOTH}, ["--max-acc-drop cannot be met: ACC", "--max-asr cannot be met: ASR"]),
        ({"data": "none", "test": "t.npz", **BOTH}, []),
        (
            {"data": "none", "test": "t.npz", **TRIGGER, **BOTH},
            ["--max-asr cannot be met: a given trigger needs a floor"],
        ),
        ({"data": "d.npz", "audit.canaries": False, **BOTH}, ["--max-asr cannot be met: no trigger is measured"]),
        ({"data": "d.npz", "audit.canaries": False, **TRIGGER, **BOTH}, []),
        ({"data": "none", "gates.max_latency_ms": 1.0}, []),
        (
            {"data": "d.npz", "target": "jetson", "gates.max_latency_ms": 1.0},
            ["--max-latency-ms cannot be met: model.qdq.onnx is timed on the board; read the board's report in"],
        ),
        (
            {"data": "d.npz", "bench.level": "none", "gates.max_latency_ms": 1.0},
            ["--max-latency-ms cannot be met: nothing is timed with --bench none"],
        ),
    ],
)
def test_what_cannot_be_met_is_said_with_its_reason(flags: dict[str, Any], said: list[str]) -> None:
    found = unmeetable(resolve(None, {"teacher": "t.pt", "distill.method": "kd", **flags}))
    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True))
