"""Parse and build ONNX files with NVIDIA's libraries; one JSON line per file. Run in a process of its own.

The parser is asked as NVIDIA has it, so that what it takes is what TensorRT takes. An engine is then built as on the smallest board:
by the product's own recipe and code, with batches up to 64, a workspace of 768 MiB and no TF32. Typing is strong, as
TensorRT 11 has no other.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from edgekd_device import graph_facts
from edgekd_device.runtime import trt_build

MEMORY = 4 << 30  # bytes: of the smaller Orin Nano

trt = trt_build.library()


def parse(model: bytes, log: Any) -> dict[str, Any]:
    """Whether the ONNX file in ``model`` parses, and what the parser has against it."""
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse(model)
    errors = [str(parser.get_error(k)) for k in range(parser.num_errors)]
    return {"parsed": parsed, "errors": errors, "batch": network.get_input(0).shape[0] if parsed else None}


def build(file: Path) -> dict[str, Any]:
    """What became of ``file``, by which recipe, and all that was said on the way, from warnings upwards."""
    model, log = file.read_bytes(), trt_build.open_log(trt)
    found: dict[str, Any] = {"file": file.name, "plan_bytes": 0, **parse(model, log)}
    said = [message for _, message in log.lines]
    if found["parsed"]:
        how = trt_build.recipe(trt, graph_facts.read(model), MEMORY)
        began = time.monotonic()
        plan = trt_build.build(trt, model, how, log, b"").plan
        found.update(seconds=round(time.monotonic() - began, 3), plan_bytes=len(plan), recipe=how._asdict())
        said += [message for _, message in log.lines]
    return {**found, "said": list(dict.fromkeys(said))}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps(build(Path(name))), flush=True)
