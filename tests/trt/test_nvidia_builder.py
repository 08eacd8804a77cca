"""edgekd's own build code on NVIDIA's real parser and builder, on the processor: TensorRT for RTX behind 11.4's bindings.

It is of the TensorRT 11 family; that 10.x builds the same files rests on its bindings alone (test_names.py).
"""

from __future__ import annotations

import json

import bindings
import pytest

pytestmark = pytest.mark.trt


def test_every_flavour_is_built_by_the_real_builder(libraries, tmp_path):
    folders = [bindings.wheel("11.4.0.106"), bindings.alias(tmp_path)]
    found = json.loads(bindings.run(folders, libraries, bindings.HERE / "build_flavours.py"))
    assert found["version"] == "11.4.0.106"
    for name in ("model.onnx", "model.fp16.onnx", "model.qdq.onnx", "model.qdq.fp16.onnx"):
        assert found[name]["typing"] == "strong"
        assert min(found[name]["sizes"]) > 10_000
        assert found[name]["timings"] > 0
        assert found[name]["beats"] > 3  # the heartbeat goes on while native code builds
    assert found["apart"]["size"] > 10_000
    assert found["apart"]["timings"] > 0
    assert found["apart"]["left"] == []
    assert "Failed to parse the ONNX model" in found["apart rubbish"]
    # what a parser says of files that our own check keeps away from it
    assert found["uint8"].startswith("2 TensorRT 11.4.0.106 would not compute what the model says: ")
    assert "UINT8 zero_point" in found["uint8"]
    assert found["asymmetric"].startswith("2 TensorRT 11.4.0.106 does not take the model: ")
    assert "Non-zero zero point" in found["asymmetric"]
    assert "Failed to parse the ONNX model" in found["rubbish"]
