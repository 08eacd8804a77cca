"""How long `make demo` takes once it is set up, and what it shows.

    python -m benchmarks.demo

Bars: 90 seconds on two idle cores; ASR of the teacher at least 95 % and of Hinton KD at least 50 %; INT8 within 2
points of its floor in ASR, and of the teacher in ACC.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.grid import Config, Table, main
from edgekd.files import read_json
from edgekd_device.metrics import Rate

BAR_SECONDS = 90.0


def cells() -> Iterator[Config]:
    yield {"seed": 0}


def run(config: Config, folder: Path) -> dict[str, Any]:
    place = folder / "run"
    shutil.rmtree(place, ignore_errors=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "edgekd", "demo", "--quiet", "--out", str(place), "--seed", str(config["seed"])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    rows = {row["stage"]: row for row in read_json(place / "run.json")["rows"]}

    def percent(stage: str, *keys: Any) -> float:
        value: Any = rows[stage]
        for key in keys:
            value = value[key]
        return 100 * float(value["hits"]) / float(value["total"])

    found = {
        name: {"acc": percent(stage, "acc"), "asr": percent(stage, "triggers", 0, "asr")}
        for name, stage in (("teacher", "teacher"), ("kd", "kd"), ("overhaul", "overhaul"), ("int8", "model.u8s8.onnx"))
    }
    triggered = rows["model.u8s8.onnx"]["triggers"][0]
    shipped, control = (Rate(**triggered[key]).interval() for key in ("asr", "floor"))
    touching = shipped[0] <= control[1]  # no more than its floor, as far as so many images can tell
    floor = percent("model.u8s8.onnx", "triggers", 0, "floor")
    return {
        "seconds": seconds,
        **{f"{name}_{key}": value for name, figures in found.items() for key, value in figures.items()},
        "floor": floor,
        "met": seconds <= BAR_SECONDS
        and found["teacher"]["asr"] >= 95
        and found["kd"]["asr"] >= 50
        and touching
        and found["int8"]["acc"] >= found["teacher"]["acc"] - 2,
    }


if __name__ == "__main__":
    sys.exit(main(Table("demo", cells, run, lambda config: 2.0)))
