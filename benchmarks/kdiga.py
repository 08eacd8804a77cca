"""Robustness by slopes: KDIGA and IGDM beside adversarial training and beside the controls of the teacher's slopes.

    python -m benchmarks.kdiga --minutes 60 --processes 2

Part "robust": students of a small adversarially trained teacher (PGD on 25,000 images), 9,000 images, true labels, each
attacked on 1,000 test images within 8/255, tier standard: worst case over its attacks, which images survive, and what the tests
for masked gradients say. zero and shuffled: KDIGA without the teacher's slopes, and with those of another image; what KDIGA has
is held against the most robust zero of any weight. "KDIGA, weight 0": its other terms alone. Two rows have a plainly trained
teacher of the same 25,000 images. "teacher": itself under the same attacks. Everything computes in fp32, teachers too.

Part "backdoor": a teacher with a trigger over the whole image (and, for comparison, one with a patch), which it obeys on
every image; students see clean images alone. These runs trust their teachers on purpose: `edgekd compress` refuses them.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import prepare_data
from benchmarks.attacks import START, clean_network
from benchmarks.grid import Config, Table, main
from benchmarks.kdiga_table import GIVEN, NATURAL, NO_SLOPES, ROBUST
from benchmarks.students import once, percent_right, schedule, spec_of, user_images
from benchmarks.transfer import teacher_of
from edgekd import audit, data, distill
from edgekd.data import ImageSet
from edgekd.files import canonical_json, sha256_bytes
from edgekd.runners.torch import TorchRunner
from edgekd.training.device import resolve_device
from edgekd.types import Model, Trigger

BOUND = 8 / 255
TEACHER: Config = {"arch": "resnet14", "images": 25_000, "epochs": 12, "precision": "fp32", "seed": 0}
IMAGES, EPOCHS, STUDENT, ATTACKED, TIER = 9000, 20, "resnet8", 1000, "standard"
WHOLE, PATCH, OURS = "cifar10_smallvgg_l2_inv_t0.pth", "cifar10_smallvgg_badnets_t8.pth", "noise-blend"
WITHOUT = ("scratch", "pgd-at")  # methods that have no teacher

ATTACK: dict[str, Any] = {"attack_steps": 5, "attack_rate": 4 / 255}  # 2.5 times the bound, all steps together
TRUST: dict[str, Any] = {"trust_teacher": True}
PAPER: dict[str, Any] = {**TRUST, "slope_temperature": 1.0}
ZERO: dict[str, Any] = {"teacher_slopes": "zero"}
ATTACKING: dict[str, Any] = {**TRUST, **ATTACK, "direction": "attack"}
TAUGHT = {ROBUST: ("pgd-at", ATTACK), NATURAL: ("scratch", {})}  # our teachers
# row -> method and settings
MAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "CE": ("scratch", {}),
    "KD": ("kd", {}),
    "KDIGA": ("kdiga", TRUST),
    "KDIGA, zero": ("kdiga", {**TRUST, **ZERO}),
    NO_SLOPES: ("kdiga", {**TRUST, "slope_weight": 0.0}),
    "PGD-AT": ("pgd-at", ATTACK),
    "KDIGA, shuffled": ("kdiga", {**TRUST, "teacher_slopes": "shuffled"}),
    "KDIGA, paper's slopes": ("kdiga", PAPER),
    "KDIGA, paper's slopes, zero": ("kdiga", {**PAPER, **ZERO}),
    "IGDM, signs": ("igdm", TRUST),
}
WEIGHTS = {
    f"KDIGA{name}, weight {weight:g}": ("kdiga", {**TRUST, **slopes, "slope_weight": weight})
    for weight in (0.3, 3.0)
    for name, slopes in (("", {}), (", zero", ZERO))
}
ATTACKED_BY = {
    "IGDM, attack": ("igdm", ATTACKING),
    "IGDM, attack, weight 0": ("igdm", {**ATTACKING, "slope_weight": 0.0}),
}
COSINE = {"KDIGA, cosine": ("kdiga", {**TRUST, "distance": "cosine", "slope_weight": 3.0})}
ROWS = {**MAIN, **WEIGHTS, **ATTACKED_BY, **COSINE}
CORE = ("CE", "KD", "KDIGA", "KDIGA, zero")


def cells() -> Iterator[Config]:
    """In the order of value; the first makes the robust teacher, and the backdoor behind it waits for nobody."""
    yield from _robust((GIVEN,), (0,))
    yield from _backdoor(WHOLE, (*CORE, *COSINE, "KDIGA, paper's slopes", "IGDM, signs"), (0,))
    yield from _robust(MAIN, (0,))
    yield from _robust(WEIGHTS, (0,))
    yield from _robust((GIVEN, "KDIGA", "KDIGA, zero"), (0,), NATURAL)
    yield from _robust(MAIN, (1, 2))
    yield from _backdoor(WHOLE, CORE, (1, 2))
    yield from _robust(WEIGHTS, (1, 2))
    yield from _robust(ATTACKED_BY, (0,))
    yield from _backdoor(OURS, CORE, (0,))
    yield from _backdoor(PATCH, CORE[:3], (0,))


def _robust(rows: Iterable[str], seeds: Iterable[int], teacher: str = ROBUST) -> Iterator[Config]:
    for seed, row in itertools.product(seeds, rows):
        attacked = {"tier": TIER, "attacked": ATTACKED}
        yield {"part": "robust", "teacher": teacher, "row": row, "images": IMAGES, "epochs": EPOCHS, "seed": seed, **attacked}  # fmt: skip


def _backdoor(teacher: str, rows: Iterable[str], seeds: Iterable[int]) -> Iterator[Config]:
    for seed, row in itertools.product(seeds, rows):
        yield {"part": "backdoor", "teacher": teacher, "row": row, "images": IMAGES, "epochs": EPOCHS, "seed": seed}


def run(config: Config, folder: Path) -> dict[str, Any]:
    test = data.load(prepare_data.prepare("cifar10_test"))
    teacher, trigger = _teacher(config, folder, test)
    about = {} if teacher is None else {"teacher_acc": percent_right(teacher, test), "teacher_sha256": teacher.sha256}
    if teacher is not None and config["row"] == GIVEN:
        return {**about, "acc": about["teacher_acc"], "seconds": None, **_attacked(config, teacher, test)}
    method, options = ROWS[config["row"]]
    images, _ = user_images(config["images"])
    student, log = distill.run(
        None if method in WITHOUT else teacher,
        spec_of(STUDENT, images, (teacher or clean_network(START)).spec.input),
        images,
        method,
        options,
        schedule(config, lr=0.1, precision="fp32"),
        folder=folder / "train",
    )
    result = {
        **about,
        "acc": percent_right(student, test),
        "slopes": log.method.get("slopes", [])[-1:],
        "halvings": log.method.get("halvings"),
        "seconds": sum(log.seconds.values()),
    }
    if teacher is not None and trigger is not None:
        probes = audit.probes(test, (trigger,), teacher.spec.num_classes)
        reports = {name: audit.scan(TorchRunner(model), probes) for name, model in (("", student), ("teacher_", teacher))}  # fmt: skip
        return result | {f"{name}asr": 100 * report.triggers[0].asr.value for name, report in reports.items()}
    return {**result, **_attacked(config, student, test)}


def _attacked(config: Config, model: Model, test: ImageSet) -> dict[str, Any]:
    """What attacks within the bound leave of it; survives: a bit per attacked image, in hexadecimal."""
    device = str(resolve_device("auto"))
    network = model.module.to(device).requires_grad_(False)
    how: dict[str, Any] = {"name": config["row"], "seed": 0, "device": device, "count": config["attacked"]}
    found = audit.robustness(network, test, config["tier"], BOUND, **how)
    survives = np.packbits(found.survives.numpy()).tobytes().hex()
    return {"robust": 100 * found.robust.value, "survives": survives, "robustness": found.table}


def _teacher(config: Config, folder: Path, test: ImageSet) -> tuple[Model | None, Trigger | None]:
    """Ours is trained by the first cell that wants it; a method without a teacher wants none."""
    if config["part"] == "backdoor":
        return teacher_of(config["teacher"], test)
    if config["row"] != GIVEN and ROWS[config["row"]][0] in WITHOUT:
        return None, None
    (method, options), about = TAUGHT[config["teacher"]], config.get("trained", TEACHER)
    images, _ = user_images(about["images"])
    spec = spec_of(about["arch"], images, clean_network(START).spec.input)
    place = folder.parent.parent / "teachers" / sha256_bytes(canonical_json([method, about]).encode())[:16]
    train = schedule(about, lr=0.1, precision=about["precision"])
    return once(place, spec, lambda work: distill.run(None, spec, images, method, options, train, folder=work)[0]), None


def forecast(config: Config) -> float:
    """Minutes on a core of its own; the rows "teacher" train it."""
    if config["row"] == GIVEN:
        return {ROBUST: 45.0, NATURAL: 16.0}[config["teacher"]]
    method, options = ROWS[config["row"]]
    each = {"scratch": 2.0, "kd": 4.0, "kdiga": 11.0, "pgd-at": 10.0, "igdm": 15.0 if "direction" in options else 9.0}
    training = each[method] * config["images"] * config["epochs"] / (IMAGES * EPOCHS)
    return float(training + (3.5 * config["attacked"] / ATTACKED if config["part"] == "robust" else 0.5))


TABLE = Table("kdiga", cells, run, forecast, resumable=True)

if __name__ == "__main__":
    sys.exit(main(TABLE))
