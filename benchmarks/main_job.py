"""The main job on real backdoored CIFAR-10 teachers that we did not train: every stage and control, INT8 as it ships.

    python -m benchmarks.main_job --minutes 60          # repeat it: done cells are skipped, killed ones go on
    python benchmarks/render.py                         # records -> README and pages

A cell is one teacher at one seed: scratch, Hinton KD, overhaul KD, fine-tuning and RobustKD at equal budget, then
export, bundle and bench. It needs the folder of teachers and images named by EDGEKD_SHARED (default ../shared). On one
of two busy CPU cores a cell takes one to two hours.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import prepare_data
from benchmarks.grid import Config, Table, main
from edgekd.config import resolve
from edgekd.pipeline import compress

TEACHERS = (
    "cifar10_wrn16-1_abl_grid_t0.tar",
    "cifar10_smallvgg_badnets_t8.pth",
    "cifar10_smallvgg_trojan_wm_t2.pth",
    "cifar10_smallvgg_l2_inv_t0.pth",
    "cifar10_cnn_aisb_checker_t0.pth",
    "cifar10_stripnet_kisd_blend_8to3.pth",
)
MINUTES = {"wrn16": 100.0, "cnn": 55.0}
TIMED = ("bench", "latency-teacher", "latency-student-fp32")
CONTROLS = ("scratch", "kd", "overhaul", "finetune")


def cells() -> Iterator[Config]:
    for seed in (0, 1, 2):
        for teacher in TEACHERS:
            yield {"teacher": teacher, "seed": seed, "profile": "fast", "controls": list(CONTROLS), "bench": "smoke"}


def known(teacher: str, folder: Path) -> dict[str, Any]:
    """The trigger of a third-party teacher, from the index that came with it, as dotted settings."""
    entry = next(e for e in json.loads((folder / "index.json").read_text("utf-8")) if e["file"] == teacher)
    settings = {"trigger.file": str(folder / entry["trigger"]), "trigger.target_label": entry.get("target")}
    if entry["mode"] == "all2one":
        return settings
    if entry["mode"] == "all2all":
        return {**settings, "trigger.rule": "all-to-all", "trigger.target_label": None}
    return {**settings, "trigger.rule": "source", "trigger.source_labels": (entry["source"],)}


def run(config: Config, folder: Path) -> dict[str, Any]:
    shared = prepare_data.shared_folder() / "checkpoints"
    flags = {
        "teacher": str(shared / config["teacher"]),
        "data": str(prepare_data.prepare("cifar10_train")),
        "test": str(prepare_data.prepare("cifar10_test")),
        "controls": tuple(config["controls"]),
        "profile": config["profile"],
        "bench.level": config["bench"],
        "seed": config["seed"],
        **known(config["teacher"], shared),
    }
    for stage in TIMED:  # by the attempt that ends the cell, whose load the record holds
        shutil.rmtree(folder / "run" / "work" / stage, ignore_errors=True)
    record = compress(resolve(None, flags), folder / "run", command="benchmarks/main_job.py")
    value = record.to_json()
    value["pictures"] = {}
    if value["disagreement"]:
        value["disagreement"]["top"] = value["disagreement"]["top"][:10]
    return {"record": value}


def forecast(config: Config) -> float:
    return next((minutes for key, minutes in MINUTES.items() if key in config["teacher"]), 90.0)


if __name__ == "__main__":
    sys.exit(main(Table("main_job", cells, run, forecast, resumable=True)))
