"""Backdoored teachers of our own: every attack on CIFAR-10 at three poisoning rates, from a clean network that we did not train.

    python -m benchmarks.attacks --minutes 60 --processes 2

ACC beside that of the clean network it started from ("twin"; it was not trained on, so a drop is the attack's), ASR, its
floor on that network, seconds. Bars at a rate of 10 %: ACC within 1.5 points of the twin; ASR at least 95 %, and 90 % for
CheatKD as intended, WaNet, Input-aware and BPP; SCAR's teacher is meant to ignore its trigger, so ASR at most 10 %. The
weights stay in the cell's cache folder, where benchmarks/transfer.py finds them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import prepare_data
from benchmarks.grid import Config, Table, main
from edgekd.attacks import ATTACKS
from edgekd.attacks.run import attack_class
from edgekd.config import resolve_attack
from edgekd.pipeline.attack import attack

START = "cifar10_distiller_wrn16_1.pth"
RATES = (0.1, 0.05, 0.01)
EASIER = ("cheatkd", "wanet", "input-aware", "bpp")  # a bar of 90 %
EPOCHS = {"input-aware": 8, "adba": 8, "scar": 12}  # those that train something beside the teacher; 4 for the others
NO_RATE = ("adba", "scar")  # whose rate is no share of poisoned images
IMAGES = 20_000
GOALS: dict[str, dict[str, Any]] = {"tact": {"goal.rule": "source", "goal.source_labels": (5,)}}


def cells() -> Iterator[Config]:
    for rate in RATES:
        for name in ATTACKS:
            if rate == RATES[0] or name not in NO_RATE:
                yield cell(name, rate)


def cell(name: str, rate: float = RATES[0], seed: int = 0) -> Config:
    """An attack's config; without a rate of its own it has none."""
    shared = {"attack": name, "start": START, "images": IMAGES, "epochs": EPOCHS.get(name, 4), "seed": seed}
    return shared if name in NO_RATE else {**shared, "rate": rate}


def run(config: Config, folder: Path) -> dict[str, Any]:
    flags = {
        "attack.name": config["attack"],
        "data": str(prepare_data.few("cifar10_train", config["images"])),
        "test": str(prepare_data.prepare("cifar10_test")),
        "teacher": str(prepare_data.shared_folder() / "checkpoints" / config["start"]),
        "seed": config["seed"],
        "attack.rate": config.get("rate"),
        "train.epochs": config["epochs"],
        **GOALS.get(config["attack"], {}),
    }
    record = attack(resolve_attack(None, flags), folder / "teacher.safetensors")
    acc, twin = (100 * record[key]["hits"] / record[key]["total"] for key in ("acc", "start_acc"))
    score = record["trigger"]
    asr, floor = (100 * score[key]["hits"] / score[key]["total"] for key in ("asr", "floor"))
    if config["attack"] == "scar":
        reached = asr <= 10
    else:
        reached = asr >= (90 if config["attack"] in EASIER else 95)
    return {
        "acc": acc,
        "twin_acc": twin,
        "asr": asr,
        "floor": floor,
        "seconds": sum(record["training"]["seconds"].values()),
        "met": acc >= twin - 1.5 and reached if config.get("rate", RATES[0]) == RATES[0] else None,
        "options": record["config"]["attack"],
        "weights_sha256": record["weights_sha256"],
    }


def forecast(config: Config) -> float:
    return {"adba": 25.0, "scar": 40.0}.get(config["attack"], 5.0 if attack_class(config["attack"]).learned else 3.0)


TABLE = Table("attacks", cells, run, forecast, resumable=True)

if __name__ == "__main__":
    sys.exit(main(TABLE))
