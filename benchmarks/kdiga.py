"""Robustness by slopes: KDIGA and IGDM beside adversarial training and beside the controls of the teacher's slopes.

    python -m benchmarks.kdiga --minutes 60 --processes 2

Slopes are input gradients. Part "robust": students of a small adversarially trained teacher (PGD on 25,000 images),
with 9,000 images and true labels. Each is attacked on 1,000 test images within 8/255 at tier standard. The record has
the worst case over the attacks, which images survive, and the tests for masked gradients.

"zero" and "shuffled" are KDIGA without the teacher's slopes, and with those of another image. KDIGA's figures are held
against both, and against the most robust zero of any weight. "KDIGA, weight 0" has its other terms alone. Some rows
have a teacher trained plainly on the same 25,000 images. "teacher" is the teacher itself under the same attacks.
Everything computes in fp32, teachers too. Every result has its method, settings and schedule; a training that diverges
is a result too.

Part "backdoor": a teacher with a trigger over the whole image (and, for comparison, one with a patch), which it obeys
on every image; students see clean images alone. These runs trust their teachers on purpose: `edgekd compress` refuses
them. The records of seed 0 decide which further row has seeds 1 and 2, and cells are chosen when a call begins: call
it until nothing is left.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import prepare_data
from benchmarks.attacks import START, clean_network
from benchmarks.grid import HERE, Cell, Config, Table, main, trees
from benchmarks.kdiga_table import GIVEN, NATURAL, NO_SLOPES, ROBUST, SHUFFLED
from benchmarks.outcomes import kept, said, settings
from benchmarks.students import once, percent_right, schedule, spec_of, user_images
from benchmarks.transfer import teacher_of
from edgekd import audit, data, distill
from edgekd.data import ImageSet
from edgekd.distill.kdiga import Gauge, KDIGASettings
from edgekd.files import canonical_json, read_json, sha256_bytes
from edgekd.losses import input_gradient
from edgekd.runners.torch import TorchRunner
from edgekd.training import Diverged, TrainConfig
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
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "CE": ("scratch", {}),
    "KD": ("kd", {}),
    "KDIGA": ("kdiga", TRUST),
    "KDIGA, zero": ("kdiga", {**TRUST, **ZERO}),
    NO_SLOPES: ("kdiga", {**TRUST, "slope_weight": 0.0}),
    "PGD-AT": ("pgd-at", ATTACK),
    SHUFFLED: ("kdiga", {**TRUST, "teacher_slopes": "shuffled"}),
    "KDIGA, paper's slopes": ("kdiga", PAPER),
    "KDIGA, paper's slopes, zero": ("kdiga", {**PAPER, **ZERO}),
    "IGDM, signs": ("igdm", TRUST),
    "IGDM, attack": ("igdm", ATTACKING),
    "IGDM, attack, weight 0": ("igdm", {**ATTACKING, "slope_weight": 0.0}),
    "KDIGA, cosine": ("kdiga", {**TRUST, "distance": "cosine", "slope_weight": 3.0}),
    **{
        f"KDIGA{name}, weight {weight:g}": ("kdiga", {**TRUST, **slopes, "slope_weight": weight})
        for weight in (0.3, 3.0)
        for name, slopes in (("", {}), (", zero", ZERO))
    },
}
HEADLINE = ("CE", "KD", "KDIGA", "KDIGA, zero", SHUFFLED, "PGD-AT", "IGDM, signs")
STRONGER, WEAKER = (tuple(f"KDIGA{name}, weight {weight}" for name in ("", ", zero")) for weight in ("3", "0.3"))
PUBLISHED = ("KDIGA, paper's slopes", "KDIGA, paper's slopes, zero", NO_SLOPES)
CORE = ("CE", "KD", "KDIGA", "KDIGA, zero")


OTHERS = ("KDIGA, cosine", "KDIGA, paper's slopes", "IGDM, signs")
RAISED = 10.0  # points of ASR above KD at seed 0, from which on a further row has all seeds


def cells() -> Iterator[Config]:
    """In the order of value; the first makes the robust teacher, and the backdoor behind it waits for nobody."""
    seeds = (0, 1, 2)
    yield from _robust((GIVEN,), (0,))
    yield from _backdoor(WHOLE, (*CORE, *OTHERS), (0,))
    yield from _robust(HEADLINE, seeds)
    yield from _backdoor(WHOLE, (*CORE, *_raising(WHOLE)), (1, 2))
    yield from _robust(STRONGER, seeds)
    yield from _robust(("IGDM, attack",), seeds)
    yield from _robust(PUBLISHED, (0,))
    yield from _robust((GIVEN, "KDIGA", "KDIGA, zero"), (0,), NATURAL)
    yield from _robust(WEAKER, (0,))
    yield from _backdoor(OURS, CORE, (0,))
    yield from _backdoor(PATCH, CORE[:3], (0,))
    yield from _robust(PUBLISHED, (1, 2))
    yield from _robust(("KDIGA",), (1, 2), NATURAL)
    yield from _robust(("IGDM, attack, weight 0",), (0,))


def _raising(teacher: str) -> list[str]:
    """The further row whose student obeys most at seed 0, if that is far above Hinton KD's."""
    asr = {
        config["row"]: read_json(record)["result"].get("asr", 0.0)
        for config in _backdoor(teacher, ("KD", *OTHERS), (0,))
        if (record := Cell(TABLE, config, HERE).record).exists()
    }
    most = max((row for row in OTHERS if row in asr), key=lambda row: float(asr[row]), default="")
    return [most] if most and "KD" in asr and asr[most] - asr["KD"] >= RAISED else []


def _robust(rows: Iterable[str], seeds: Iterable[int], teacher: str = ROBUST) -> Iterator[Config]:
    for seed, row in itertools.product(seeds, rows):
        attacked = {"tier": TIER, "attacked": ATTACKED}
        yield {"part": "robust", "teacher": teacher, "row": row, "images": IMAGES, "epochs": EPOCHS, "seed": seed, **attacked}  # fmt: skip


def _backdoor(teacher: str, rows: Iterable[str], seeds: Iterable[int]) -> Iterator[Config]:
    for seed, row in itertools.product(seeds, rows):
        yield {"part": "backdoor", "teacher": teacher, "row": row, "images": IMAGES, "epochs": EPOCHS, "seed": seed}


def run(config: Config, folder: Path) -> dict[str, Any]:
    test = data.load(prepare_data.prepare("cifar10_test"))
    about: dict[str, Any] = {} if config["part"] == "backdoor" else {"taught": _taught(config)}
    try:
        teacher, trigger = _teacher(config, folder, test)
        if teacher is not None:
            about |= {"teacher_acc": percent_right(teacher, test), "teacher_sha256": teacher.sha256}
        if teacher is not None and config["row"] == GIVEN:
            return {**about, "acc": about["teacher_acc"], "seconds": None, **_attacked(config, teacher, test)}
        return {**about, **_student(config, folder, test, teacher, trigger)}
    except Diverged as error:
        return {**about, "diverged": said(error)}


def _student(
    config: Config, folder: Path, test: ImageSet, teacher: Model | None, trigger: Trigger | None
) -> dict[str, Any]:
    method, options = ROWS[config["row"]]
    images, _ = user_images(config["images"])
    train = schedule(config, lr=0.1, precision="fp32")
    spec = spec_of(STUDENT, images, (teacher or clean_network(START)).spec.input)
    student, log = distill.run(
        None if method in WITHOUT else teacher, spec, images, method, options, train, folder=folder / "train"
    )
    result = {
        "settings": settings(method, options, train),
        "acc": percent_right(student, test),
        "slopes": log.method.get("slopes", []),
        "halvings": log.method.get("halvings"),
        "seconds": sum(log.seconds.values()),
    }
    if teacher is not None and trigger is not None:
        probes = audit.probes(test, (trigger,), teacher.spec.num_classes)
        reports = {name: audit.scan(TorchRunner(model), probes) for name, model in (("", student), ("teacher_", teacher))}  # fmt: skip
        return result | {f"{name}asr": 100 * report.triggers[0].asr.value for name, report in reports.items()}
    held_out = None if teacher is None else unseen_slopes(student, teacher, test.subset(np.arange(config["attacked"])))
    return {**result, "unseen_slopes": held_out, **_attacked(config, student, test)}


def unseen_slopes(student: Model, teacher: Model, images: ImageSet) -> dict[str, float]:
    """Of images that neither saw, means of lengths, distance and cosine of both's slopes, softened as is KDIGA's default."""
    device, gauge, temperature = resolve_device("auto"), Gauge(1), KDIGASettings().slope_temperature
    ours, theirs = (model.module.to(device).requires_grad_(False) for model in (student, teacher))
    gauge.to(device)
    for index in np.array_split(np.arange(len(images)), -(-len(images) // 250)):
        pixels = torch.from_numpy(images.images[index]).to(device).float().div(255).requires_grad_()
        labels = torch.from_numpy(images.labels[index]).to(device)
        said = [network(pixels) for network in (ours, theirs)]
        slopes = [input_gradient(logits, labels, pixels, temperature=temperature) for logits in said]
        gauge.note(0, slopes[0], slopes[1], said[0].argmax(1) == labels)
    (found,) = gauge.diary()
    return found


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
    taught = _taught(config)
    if taught is None:
        return None, None
    method, options, about = taught["method"], taught["options"], _trained(config)
    images, _ = user_images(about["images"])
    spec, train = spec_of(about["arch"], images, clean_network(START).spec.input), TrainConfig(**taught["train"], device="auto")  # fmt: skip
    key = canonical_json([taught, spec.to_json(), images.sha256, trees()])
    place = folder.parent.parent / "teachers" / sha256_bytes(key.encode())[:16]
    make = kept(lambda work: distill.run(None, spec, images, method, options, train, folder=work)[0])
    return once(place, spec, make), None


def _taught(config: Config) -> dict[str, Any] | None:
    """How our teacher was made; None for a row that has none."""
    if config["row"] != GIVEN and ROWS[config["row"]][0] in WITHOUT:
        return None
    about = _trained(config)
    return settings(*TAUGHT[config["teacher"]], schedule(about, lr=0.1, precision=about["precision"]))


def _trained(config: Config) -> Config:
    """Our teacher's network, images and epochs; a test may want them smaller."""
    found: Config = config.get("trained", TEACHER)
    return found


def forecast(config: Config) -> float:
    """Minutes on a core of its own; the rows "teacher" train it."""
    if config["row"] == GIVEN:
        return {ROBUST: 45.0, NATURAL: 16.0}[config["teacher"]]
    method, options = ROWS[config["row"]]
    each = {"scratch": 2.0, "kd": 4.0, "pgd-at": 10.0, "igdm": 15.0 if "direction" in options else 9.0}
    each["kdiga"] = 11.0 if options.get("slope_weight", 1.0) else 4.0  # without a second backward pass
    training = each[method] * config["images"] * config["epochs"] / (IMAGES * EPOCHS)
    return float(training + (3.5 * config["attacked"] / ATTACKED if config["part"] == "robust" else 0.5))


TABLE = Table("kdiga", cells, run, forecast, resumable=True)

if __name__ == "__main__":
    sys.exit(main(TABLE))
