"""Builds each flavour of a small model with whatever `tensorrt` is on the path, through edgekd's own code; prints JSON."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "device"))

import trt_models

from edgekd_device import graph_facts
from edgekd_device.errors import EdgekdError
from edgekd_device.runtime import builder, trt_build

trt_build.BEAT = 0.01
trt = trt_build.library()
found: dict[str, object] = {"version": trt.__version__}
for name in trt_models.FLAVOURS:
    model, beats, log = trt_models.model(name), [], trt_build.open_log(trt)
    how = trt_build.recipe(trt, graph_facts.read(model), 8 << 30)
    with trt_build.heartbeat(lambda *report, beats=beats: beats.append(report), name):
        built = trt_build.build(trt, model, how, log, b"")
    again = trt_build.build(trt, model, how, log, built.timings)
    rubbish = trt_build.build(trt, model, how, log, b"no timings")
    sizes = [len(built.plan), len(again.plan), len(rubbish.plan)]
    found[name] = {"typing": how.typing, "sizes": sizes, "timings": len(built.timings), "beats": len(beats)}
# and in a process of its own, as a run does
with tempfile.TemporaryDirectory() as folder:
    name = "model.qdq.fp16.onnx"
    model = trt_models.model(name)
    how = trt_build.recipe(trt, graph_facts.read(model), 8 << 30)
    built = builder.build(trt.__version__, folder, model, how, b"")
    found["apart"] = {"size": len(built.plan), "timings": len(built.timings), "left": os.listdir(folder)}
    try:
        builder.build(trt.__version__, folder, b"rubbish", how, b"")
    except EdgekdError as error:
        found["apart rubbish"] = f"{error.exit_code} {error}"
bad = {
    "uint8": trt_models.model("model.u8s8.onnx", np.uint8(0)),
    "asymmetric": trt_models.model(zero=np.int8(3)),
    "rubbish": b"rubbish",
}
for name, model in bad.items():  # past our own check, which refuses all of them before
    log = trt_build.open_log(trt)
    try:
        trt_build.build(trt, model, how, log, b"")
        found[name] = "accepted"
    except EdgekdError as error:
        found[name] = f"{error.exit_code} {error}"
json.dump(found, sys.stdout)
