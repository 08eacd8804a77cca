"""The overhead benchmark runs and counts; its timing is not judged here."""

from __future__ import annotations

import json

import pytest
from bundles import graph

from benchmarks import harness_overhead


def test_both_loops_run_interleaved(tmp_path, monkeypatch):
    monkeypatch.setattr(harness_overhead, "WARM_SECONDS", 0.01)
    (tmp_path / "model.onnx").write_bytes(graph())
    found = harness_overhead.measure(tmp_path / "model.onnx", blocks=4, seconds=0.01)
    assert [len(found["block_p50_us"][name]) for name in ("harness", "bare")] == [4, 4]
    assert min(found["samples"].values()) > 0
    assert found["allowed_us"] == 20.0
    assert found["passed"] is (abs(found["overhead_us"]) <= 20.0)
    assert json.loads(json.dumps(found)) == found
    assert found["overhead_share"] == pytest.approx(found["overhead_us"] / found["p50_us"]["bare"])
