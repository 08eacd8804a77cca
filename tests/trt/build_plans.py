"""Parse and build ONNX files with NVIDIA's libraries; one JSON line per file. Run in a process of its own.

Knows nothing of edgekd: what it accepts is what TensorRT accepts. Typing is strong, as TensorRT 11 has no other.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import tensorrt_bindings as trt

LARGEST_BATCH = 8


class Log(trt.ILogger):  # type: ignore[misc]
    """Keeps what is said from warnings upwards."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.said: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.WARNING:
            self.said.append(message)


def build(file: Path, log: Log) -> dict[str, Any]:
    """Whether ``file`` parses and builds with a batch of 1 to LARGEST_BATCH, and all that was said on the way."""
    log.said.clear()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    found: dict[str, Any] = {"file": file.name, "parsed": parser.parse(file.read_bytes()), "plan_bytes": 0}
    found["errors"] = [str(parser.get_error(k)) for k in range(parser.num_errors)]
    if found["parsed"]:
        source = network.get_input(0)
        image = tuple(source.shape)[1:]
        profile = builder.create_optimization_profile()
        profile.set_shape(source.name, (1, *image), (1, *image), (LARGEST_BATCH, *image))
        config = builder.create_builder_config()
        config.add_optimization_profile(profile)
        began = time.monotonic()
        plan = builder.build_serialized_network(network, config)
        found["seconds"] = round(time.monotonic() - began, 3)
        found["plan_bytes"] = 0 if plan is None else plan.nbytes
        found["batch"] = source.shape[0]
    return {**found, "said": list(dict.fromkeys(log.said))}


if __name__ == "__main__":
    logger = Log()
    for name in sys.argv[1:]:
        print(json.dumps(build(Path(name), logger)), flush=True)
