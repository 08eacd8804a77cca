"""Robustness by slopes: KDIGA and IGDM beside adversarial training and beside the controls of the teacher's slopes.

    python -m benchmarks.kdiga --minutes 60 --processes 2

Part "robust": students of a small adversarially trained teacher (PGD on 25,000 images), 9,000 images, true labels, each
attacked on 1,000 test images within 8/255, tier standard: worst case over its attacks, and what the tests for masked
gradients say. zero and shuffled: KDIGA without the teacher's slopes, and with those of another image; where KDIGA is not two points
above zero, it is a gradient penalty. paper: slopes of the plain cross-entropy. Further weights and distances have no control, and
nothing was chosen by their figures. "teacher": itself under the same attacks. Every row computes in fp32, which KDIGA and IGDM need.

Part "backdoor": a teacher with a trigger over the whole image (and, for comparison, one with a patch), which it obeys on
every image; students see clean images alone. These runs trust their teachers on purpose: `edgekd compress` refuses them.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import prepare_data
from benchmarks.attacks import START, clean_network
from benchmarks.grid import Config, Table, main
from benchmarks.students import once, percent_right, schedule, spec_of, user_images
from benchmarks.transfer import teacher_of
from edgekd import audit, data, distill
from edgekd.data import ImageSet
from edgekd.files import canonical_json, sha256_bytes
from edgekd.runners.torch import TorchRunner
from edgekd.training.device import resolve_device
from edgekd.types import Model, Trigger

BOUND = 8 / 255
TEACHER: Config = {"arch": "resnet14", "images": 25_000, "epochs": 12, "seed": 0}
IMAGES, EPOCHS, STUDENT, ATTACKED, TIER = 9000, 20, "resnet8", 1000, "standard"
ROBUST, NATURAL = "pgd-at resnet14", START
GIVEN = "teacher"  # the row that trains nothing
WHOLE, PATCH, OURS = "cifar10_smallvgg_l2_inv_t0.pth", "cifar10_smallvgg_badnets_t8.pth", "noise-blend"

ATTACK: dict[str, Any] = {"attack_steps": 5, "attack_rate": 4 / 255}  # 2.5 times the bound, all steps together
TRUST: dict[str, Any] = {"trust_teacher": True}
PAPER: dict[str, Any] = {**TRUST, "slope_temperature": 1.0}
# row -> method and settings
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "CE": ("scratch", {}),
    "KD": ("kd", {"temperature": 1.0, "alpha": 0.5}),  # KDIGA without slopes
    "KDIGA": ("kdiga", TRUST),
    "KDIGA, zero": ("kdiga", {**TRUST, "teacher_slopes": "zero"}),
    "KDIGA, shuffled": ("kdiga", {**TRUST, "teacher_slopes": "shuffled"}),
    "PGD-AT": ("pgd-at", ATTACK),
    "IGDM": ("igdm", TRUST),
    "IGDM, attack": ("igdm", {**TRUST, **ATTACK, "direction": "attack"}),
    "KDIGA, paper": ("kdiga", PAPER),
    "KDIGA, paper, zero": ("kdiga", {**PAPER, "teacher_slopes": "zero"}),
    "KDIGA, cosine": ("kdiga", {**TRUST, "distance": "cosine", "slope_weight": 3.0}),
    **{f"KDIGA, weight {w:g}": ("kdiga", {**TRUST, "slope_weight": w}) for w in (0.3, 3.0)},
    **{f"KDIGA, paper, weight {w:g}": ("kdiga", {**PAPER, "slope_weight": w}) for w in (0.1, 0.3)},
}
MAIN = tuple(itertools.islice(ROWS, 10))
BACKDOORED = ("CE", "KD", "KDIGA", "KDIGA, zero", "KDIGA, cosine", "KDIGA, paper", "IGDM")
FURTHER = tuple(itertools.islice(ROWS, 10, None))


def cells() -> Iterator[Config]:
    """In the order of value: what the claims need at one seed, the backdoor, further seeds, further weights."""
    yield from _robust(MAIN, (0,))
    yield from _robust((GIVEN,), (0,))
    yield from _backdoor((WHOLE,), BACKDOORED, (0,))
    yield from _robust(("KDIGA",), (0,), NATURAL)
    yield from _robust(FURTHER, (0,))
    yield from _robust(MAIN, (1, 2))
    yield from _backdoor((WHOLE,), BACKDOORED, (1, 2))
    yield from _backdoor((PATCH, OURS), BACKDOORED, (0,))


def _robust(rows: Iterable[str], seeds: Iterable[int], teacher: str = ROBUST) -> Iterator[Config]:
    for seed, row in itertools.product(seeds, rows):
        attacked = {"tier": TIER, "attacked": ATTACKED}
        yield {"part": "robust", "teacher": teacher, "row": row, "images": IMAGES, "epochs": EPOCHS, "seed": seed, **attacked}  # fmt: skip


def _backdoor(teachers: Iterable[str], rows: Iterable[str], seeds: Iterable[int]) -> Iterator[Config]:
    for seed, teacher, row in itertools.product(seeds, teachers, rows):
        yield {"part": "backdoor", "teacher": teacher, "row": row, "images": IMAGES, "epochs": EPOCHS, "seed": seed}


def run(config: Config, folder: Path) -> dict[str, Any]:
    test = data.load(prepare_data.prepare("cifar10_test"))
    images, _ = user_images(config["images"])
    teacher, trigger = _teacher(config, folder, test)
    about = {"teacher_acc": percent_right(teacher, test), "teacher_sha256": teacher.sha256}
    if config["row"] == GIVEN:
        return {**about, "acc": about["teacher_acc"], "slopes": [], "seconds": None, **_attacked(config, teacher, test)}
    method, options = ROWS[config["row"]]
    student, log = distill.run(
        None if method in ("scratch", "pgd-at") else teacher,
        spec_of(STUDENT, images, teacher.spec.input),
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
        "halvings": log.method.get("halvings", 0),
        "seconds": sum(log.seconds.values()),
    }
    if trigger is not None:
        probes = audit.probes(test, (trigger,), teacher.spec.num_classes)
        reports = {name: audit.scan(TorchRunner(model), probes) for name, model in (("", student), ("teacher_", teacher))}  # fmt: skip
        return result | {f"{name}asr": 100 * report.triggers[0].asr.value for name, report in reports.items()}
    return {**result, **_attacked(config, student, test)}


def _attacked(config: Config, model: Model, test: ImageSet) -> dict[str, Any]:
    """What attacks within the bound leave of it."""
    device = str(resolve_device("auto"))
    network = model.module.to(device).requires_grad_(False)
    how: dict[str, Any] = {"name": config["row"], "seed": 0, "device": device, "count": config["attacked"]}
    found = audit.robustness(network, test, config["tier"], BOUND, **how)
    return {"robust": 100 * found.robust.value, "robustness": found.table}


def _teacher(config: Config, folder: Path, test: ImageSet) -> tuple[Model, Trigger | None]:
    """The robust one is trained by the first cell that wants it."""
    if config["teacher"] != ROBUST:
        return (clean_network(NATURAL), None) if config["part"] == "robust" else teacher_of(config["teacher"], test)
    about = config.get("trained", TEACHER)
    images, _ = user_images(about["images"])
    spec = spec_of(about["arch"], images, clean_network(START).spec.input)
    place = folder.parent.parent / "teachers" / sha256_bytes(canonical_json(about).encode())[:16]
    made = once(
        place,
        spec,
        lambda work: distill.run(None, spec, images, "pgd-at", ATTACK, schedule(about, lr=0.1), folder=work)[0],
    )
    return made, None


def forecast(config: Config) -> float:
    """Minutes on a core of its own; the first also trains the teacher."""
    if config["row"] == GIVEN:
        return 8.0
    method = ROWS[config["row"]][0]
    direction = ROWS[config["row"]][1].get("direction")
    each = {"scratch": 2.0, "kd": 4.0, "kdiga": 11.0, "pgd-at": 10.0, "igdm": 15.0 if direction else 9.0}[method]
    training = each * config["images"] * config["epochs"] / (IMAGES * EPOCHS)
    attacks = 3.5 * config["attacked"] / ATTACKED if config["part"] == "robust" else 0.5
    first = config["part"] == "robust" and config["row"] == MAIN[0] and config["seed"] == 0
    return float(training + attacks + (35.0 if first else 0.0))


TABLE = Table("kdiga", cells, run, forecast, resumable=True)

if __name__ == "__main__":
    sys.exit(main(TABLE))
