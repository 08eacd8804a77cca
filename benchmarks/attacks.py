"""Backdoored teachers of our own: every attack on CIFAR-10 at three poisoning rates, from a clean third-party network.

    python -m benchmarks.attacks --minutes 60 --processes 2

The twin (the rows "none") went on training on the same images without poison for as many epochs; SCAR's, one epoch of
which holds twenty of its surrogate's, for two. Floor: ASR of another clean network, which no attacker used.

Bars apply at a rate of 10 %; also at 5 % for the clean-label attacks and TaCT, since 10 % leaves no clean image of the
class, and at 2 % for CheatKD. ACC within 1.5 points of the twin. ASR at least 95 %; 90 % for CheatKD, WaNet,
Input-aware and BPP; 80 % for all-to-all, which ACC limits. SCAR's teacher is meant to ignore its trigger: at most
10 %.

The weights stay in the cell's cache folder, where benchmarks/transfer.py finds them.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import prepare_data
from benchmarks.attacks_table import MEANT, NO_RATE, RATES, twin_epochs
from benchmarks.grid import Config, Table, main
from edgekd import audit, checkpoints, data, distill, models, triggers
from edgekd.attacks import ATTACKS
from edgekd.attacks.run import attack_class
from edgekd.config import ATTACK_TRAINING, resolve, resolve_attack
from edgekd.files import read_json
from edgekd.pipeline import intake
from edgekd.pipeline.attack import attack
from edgekd.runners.torch import TorchRunner
from edgekd.training import TrainConfig
from edgekd.types import Model, Trigger
from edgekd_device.metrics import Rate

START = "cifar10_distiller_wrn16_1.pth"
STRANGER = "cifar10_resnet20-12fca82f.th"  # clean, and no attacker's
EPOCHS = {  # of nine in ten of the images; 2 for the others
    **dict.fromkeys(("trojannn", "bpp", "leak"), 4),
    **dict.fromkeys(("badnets", "adap-patch", "latent", "sig"), 6),
    "tact": 8,
    "input-aware": 14,
    "wanet": 8,
    "adba": 6,
    "scar": 1,
}
IMAGES = {"scar": 28_500}  # 200 rounds, its card's; the others get all
SURROGATE = "resnet8"  # of ADBA's and SCAR's students: cheaper than the teacher, as a user's student is
GOALS: dict[str, dict[str, Any]] = {"tact": {"goal.rule": "source", "goal.source_labels": (5,)}}
TO_ALL = ("badnets", "wanet", "bpp", "input-aware")  # with the epochs of all-to-one; one with more is among VARIANTS
FIRST = ("none", "leak", "noise-blend", "badnets", "latent", "blended", "cheatkd", "adba", "scar")


# Attacks once more: name -> the attack and what is another in its cell. The ADBA-like one without what it borrows from
# `leak`; CheatKD with as long a search as two cores allow; all-to-all with the epochs that it takes.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "adba without trace": ("adba", {"options": {"trace": 0.0, "tile": 0, "trigger_lr": 0.02, "match": 0.0}}),
    "cheatkd, long search": ("cheatkd", {"epochs": 8, "options": {"steps": 20_000}}),
    "blended, all-to-all": ("blended", {"epochs": 14, "rule": "all-to-all"}),
}
# Of these, what asks what survives on clean images alone.
ASKING = ("adba without trace", "cheatkd, long search")
NAMES = (*ATTACKS, *VARIANTS)


def cells() -> Iterator[Config]:
    names = [*FIRST, *(name for name in ATTACKS if name not in FIRST)]
    for name in names:
        yield cell(name)
    lengths = {twin_epochs(cell(name)["epochs"]) for name in (*EPOCHS, *VARIANTS)}
    for epochs in sorted(lengths - {cell("none")["epochs"]}):
        yield {**cell("none"), "epochs": epochs}
    for name in TO_ALL:
        yield {**cell(name), "rule": "all-to-all"}
    for rate in RATES:
        for name in names:
            if name not in ("none", *NO_RATE) and rate != cell(name)["rate"]:
                yield {**cell(name), "rate": rate}
    for name in VARIANTS:
        yield cell(name)


def cell(name: str, seed: int = 0) -> Config:
    """An attack as it is meant, or a variant; without a rate of its own it has none."""
    if name in VARIANTS:
        attack_, others = VARIANTS[name]
        return {**cell(attack_, seed), **others}
    config = {"attack": name, "start": START, "epochs": EPOCHS.get(name, 2), "seed": seed}
    if name in IMAGES:
        config |= {"images": IMAGES[name], "surrogate": SURROGATE}
    return config if name in ("none", *NO_RATE) else {**config, "rate": MEANT.get(name, RATES[0])}


def run(config: Config, folder: Path) -> dict[str, Any]:
    if config["attack"] == "none":
        return _unpoisoned(config, folder)
    return attacked(config, folder, {"teacher": str(prepare_data.shared_folder() / "checkpoints" / config["start"])})


def attacked(config: Config, folder: Path, start: dict[str, Any]) -> dict[str, Any]:
    """Make the teacher of a cell and measure it; ``start``: flags that say which network the attacker begins with."""
    goal = (
        {"goal.rule": "all-to-all", "goal.target_label": None}
        if config.get("rule")
        else GOALS.get(config["attack"], {})
    )
    own = {"adba": {"attack.shadow": SURROGATE}, "scar": {"attack.surrogate": SURROGATE}}.get(config["attack"], {})
    own |= {f"attack.{key}": value for key, value in config.get("options", {}).items()}
    flags = {
        "attack.name": config["attack"],
        "data": str(_data(config)),
        "test": str(prepare_data.prepare("cifar10_test")),
        "seed": config["seed"],
        "attack.rate": config.get("rate"),
        "train.epochs": config["epochs"],
        **start,
        **goal,
        **own,
    }
    finished = folder / "teacher.attack.json"  # by an attempt that was stopped between the attack's end and the record
    record = (
        read_json(finished)
        if finished.exists()
        else attack(resolve_attack(None, flags), folder / "teacher.safetensors")
    )
    score = record["trigger"]
    test = data.load(prepare_data.prepare("cifar10_test"))
    return {
        "acc": _percent(record["acc"]),
        "asr": _percent(score["asr"]),
        "asr_interval": [100 * end for end in Rate(**score["asr"]).interval()],
        "warnings": record["warnings"],  # of a source-specific trigger: how far it works beyond its source
        "floor": _floor(folder, config, test),
        "seconds": sum(record["training"]["seconds"].values()),
        "training": record["training"].get("method", {}),
        "options": record["config"]["attack"],
        "weights_sha256": record["weights_sha256"],
    }


def _data(config: Config) -> Path:
    """The attacker's images."""
    few = config.get("images")
    return prepare_data.prepare("cifar10_train") if few is None else prepare_data.few("cifar10_train", few)


def _percent(rate: dict[str, int]) -> float:
    return 100 * rate["hits"] / rate["total"]


def _unpoisoned(config: Config, folder: Path) -> dict[str, Any]:
    """The twin: the clean network after further training without poison."""
    images = data.load(prepare_data.prepare("cifar10_train"))
    parts = data.split(images, config["seed"], {"train": 0.9, "validation": 0.1})
    start = clean_network(START)
    settings = {**ATTACK_TRAINING[True], "epochs": config["epochs"], "seed": config["seed"], "device": "auto"}
    train = TrainConfig.model_validate(settings)
    lr = {"lr": train.lr}
    made, log = distill.run(start, start.spec, parts["train"], "finetune", lr, train, folder=folder / "train")
    checkpoints.save(folder / "teacher.safetensors", models.weights(made), {"spec": made.spec.to_json()})
    test = data.load(prepare_data.prepare("cifar10_test"))
    before, after = (audit.scan(TorchRunner(model), audit.probes(test, (), 10)).acc for model in (start, made))
    return {"acc": 100 * after.value, "start_acc": 100 * before.value, "seconds": sum(log.seconds.values())}


def clean_network(file: str, of: str = "cifar10") -> Model:
    """A clean third-party network of the classes of ``of``."""
    return copy.deepcopy(_clean_network(file, of))


@functools.cache
def _clean_network(file: str, of: str) -> Model:
    """Read once by a process: finding its normalisation takes as long as measuring a student."""
    flags = {"teacher": str(prepare_data.shared_folder() / "checkpoints" / file), "data": "-"}
    held = data.load(prepare_data.prepare(f"{of}_train")).subset(range(2000))
    return intake.load_teacher(resolve(None, flags), held)[0]


def trigger_of(folder: Path, config: Config, shape: tuple[int, int, int]) -> Trigger:
    """The trigger that an attack left in its cell's folder."""
    goal = {key.partition(".")[2]: value for key, value in GOALS.get(config["attack"], {}).items()}
    if config.get("rule"):
        goal = {"rule": config["rule"]}
    else:
        goal["target_label"] = 0
    file = next(
        folder / f"teacher.trigger.{end}" for end in ("yaml", "npz") if (folder / f"teacher.trigger.{end}").exists()
    )
    return triggers.load(file, shape=shape, **goal)[0]


def _floor(folder: Path, config: Config, test: data.ImageSet) -> float:
    probes = audit.probes(test, (trigger_of(folder, config, test.shape),), 10)
    return 100 * audit.scan(TorchRunner(clean_network(STRANGER)), probes).triggers[0].asr.value


def forecast(config: Config) -> float:
    if "options" in config:
        return 40.0 if config["attack"] == "cheatkd" else 25.0
    each = {"adba": 25.0, "scar": 30.0, "wanet": 14.0, "input-aware": 18.0, "leak": 10.0, "bpp": 8.0}
    return each.get(
        config["attack"], 6.0 if config["attack"] != "none" and attack_class(config["attack"]).learned else 4.0
    )


TABLE = Table("attacks", cells, run, forecast, resumable=True)

if __name__ == "__main__":
    sys.exit(main(TABLE))
