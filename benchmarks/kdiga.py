"""Robustness by slopes: KDIGA and IGDM beside adversarial training and beside the controls of the teacher's slopes.

    python -m benchmarks.kdiga --minutes 60 --processes 2

Slopes are input gradients. Part "robust": students of a small adversarially trained teacher (PGD on 25,000 images), with 9,000 images and true
labels. Each is attacked on 1,000 test images within 8/255 at tier standard. The record has the worst case over the
attacks, which images survive, and the tests for masked gradients; one of them is the examples that were made on CE's
student of the same seed, where that was there first.

"zero" and "shuffled" are KDIGA without the teacher's slopes, and with those of another image. KDIGA's figures are held
against both, and against the most robust zero of any weight: at the first seed zero also has a third of the weight and
three times the weight, and the stronger of them gets the other seeds where it beats KDIGA's own zero. "KDIGA, weight 0"
has its other terms alone. "teacher" is the teacher itself under the same attacks. Everything computes in fp32, teachers
too. Every result has its method, settings and schedule; a training that diverges is a result too.

Part "backdoor": two teachers with a trigger over the whole image, faint noise on any image of a third party's and the
stripes of the method card's own trial (sig, a teacher of ours); students see clean images alone. These runs trust their
teachers on purpose: `edgekd compress` refuses them. The records of seed 0 decide which further row has seeds 1 and 2,
with the stripes whether any has, and cells are chosen when a call begins: call it until nothing is left.
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
from benchmarks.kdiga_table import GIVEN, NO_SLOPES, OWN_ZERO, ROBUST, SHUFFLED, THIRD, THRICE, gone
from benchmarks.outcomes import kept, said, settings
from benchmarks.students import (
    acc_of_teacher,
    figures,
    figures_of_teacher,
    once,
    percent_right,
    schedule,
    spec_of,
    user_images,
)
from benchmarks.transfer import teacher_of
from edgekd import audit, data, distill
from edgekd.audit import masking
from edgekd.audit.shipped import eight_bits
from edgekd.audit.under_attack import Robustness
from edgekd.data import ImageSet
from edgekd.distill.kdiga import Gauge, KDIGASettings
from edgekd.files import canonical_json, read_json, sha256_bytes, write_npz
from edgekd.losses import input_gradient
from edgekd.runners.torch import TorchRunner
from edgekd.training import Diverged, TrainConfig
from edgekd.training.device import resolve_device
from edgekd.types import Model

BOUND = 8 / 255
TEACHER: Config = {"arch": "resnet14", "images": 25_000, "epochs": 12, "precision": "fp32", "seed": 0}
IMAGES, EPOCHS, STUDENT, ATTACKED, TIER = 9000, 12, "resnet8", 1000, "standard"
WHOLE, STRIPES = "cifar10_smallvgg_l2_inv_t0.pth", "sig"
WITHOUT = ("scratch", "pgd-at")  # methods that have no teacher

ATTACK: dict[str, Any] = {"attack_steps": 5, "attack_rate": 4 / 255}  # 2.5 times the bound, all steps together
TRUST: dict[str, Any] = {"trust_teacher": True}
PAPER: dict[str, Any] = {**TRUST, "slope_temperature": 1.0, "slope_weight": 0.1}  # of the method card's grid
ZERO: dict[str, Any] = {"teacher_slopes": "zero"}
SHARE = KDIGASettings().slope_share
# row -> method and settings
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "CE": ("scratch", {}),
    "KD": ("kd", {}),
    "KDIGA": ("kdiga", TRUST),
    OWN_ZERO: ("kdiga", {**TRUST, **ZERO}),
    NO_SLOPES: ("kdiga", {**TRUST, "slope_weight": 0.0}),
    "PGD-AT": ("pgd-at", ATTACK),
    SHUFFLED: ("kdiga", {**TRUST, "teacher_slopes": "shuffled"}),
    THIRD: ("kdiga", {**TRUST, **ZERO, "slope_share": SHARE / 3}),
    THRICE: ("kdiga", {**TRUST, **ZERO, "slope_share": SHARE * 3}),
    "KDIGA, paper's slopes": ("kdiga", PAPER),
    "KDIGA, paper's slopes, zero": ("kdiga", {**PAPER, **ZERO}),
    "IGDM, signs": ("igdm", TRUST),
    "IGDM, attack": ("igdm", {**TRUST, **ATTACK, "direction": "attack"}),
    "KDIGA, cosine": ("kdiga", {**TRUST, "distance": "cosine", "slope_weight": 3.0}),
}
HEADLINE = ("CE", "KD", "KDIGA", OWN_ZERO, SHUFFLED, "PGD-AT", "IGDM, signs")
LADDER = (THIRD, THRICE, "KDIGA, paper's slopes, zero")
ONCE = ("KDIGA, paper's slopes", NO_SLOPES, "IGDM, attack")
CORE = ("CE", "KD", "KDIGA", OWN_ZERO)
OTHERS = ("KDIGA, cosine", "KDIGA, paper's slopes", "IGDM, signs")
STRIPED = ("KDIGA, cosine", "KDIGA")  # what the method card says brings stripes back
RAISED = 10.0  # points of ASR above zero's, both above their own untriggered rate, for a further row to have all seeds


def cells() -> Iterator[Config]:
    """In the order of value; the first makes the robust teacher, and the backdoor behind it waits for nobody."""
    yield from _robust((GIVEN,), (0,))
    yield from _backdoor((*CORE, *OTHERS), (0,))
    yield from _robust(HEADLINE, (0,))
    yield from _robust(LADDER, (0,))
    yield from _backdoor((*CORE, STRIPED[0]), (0,), STRIPES)
    yield from _robust((*HEADLINE, *_strongest()), (1, 2))
    yield from _backdoor((*CORE, *_raising(WHOLE, OTHERS)), (1, 2))
    yield from _backdoor((*CORE, STRIPED[0]) if _raising(STRIPES, STRIPED) else (), (1, 2), STRIPES)
    yield from _robust(ONCE, (0,))


def may_come() -> Iterator[Config]:
    """The dearest cells that records of seed 0 may still add; none that they have added or ruled out."""
    if not all(_found(config) for config in _robust((OWN_ZERO, *LADDER), (0,))):
        yield from _robust(LADDER[:1], (1, 2))
    if not all(_found(config) for config in _backdoor((OWN_ZERO, *OTHERS), (0,))):
        yield from _backdoor(OTHERS[:1], (1, 2))
    if not all(_found(config) for config in _backdoor((OWN_ZERO, *STRIPED), (0,), STRIPES)):
        yield from _backdoor((*CORE, STRIPED[0]), (1, 2), STRIPES)


def _strongest() -> list[str]:
    """The most robust of the further zeros at seed 0, if it is more robust than KDIGA's own."""
    found = {config["row"]: _found(config) for config in _robust((OWN_ZERO, *LADDER), (0,))}
    robust = {row: float(one["robust"]) for row, one in found.items() if "robust" in one and not gone(one)}
    most = max((row for row in LADDER if row in robust), key=lambda row: robust[row], default="")
    return [most] if most and robust[most] > robust.get(OWN_ZERO, -1.0) else []


def _raising(teacher: str, rows: tuple[str, ...]) -> list[str]:
    """The row whose student obeys most at seed 0, if that is far above what no slopes of a teacher do."""
    found = {config["row"]: _found(config) for config in _backdoor((OWN_ZERO, *rows), (0,), teacher)}
    above = {row: one["asr"] - one["untriggered"] for row, one in found.items() if "asr" in one}
    most = max((row for row in rows if row in above), key=lambda row: float(above[row]), default="")
    return [most] if most and OWN_ZERO in above and above[most] - above[OWN_ZERO] >= RAISED else []


def _found(config: Config) -> dict[str, Any]:
    """A cell's result; empty where there is none yet."""
    record = Cell(TABLE, config, HERE).record
    return dict(read_json(record)["result"]) if record.exists() else {}


def _robust(rows: Iterable[str], seeds: Iterable[int]) -> Iterator[Config]:
    for seed, row in itertools.product(seeds, rows):
        attacked = {"tier": TIER, "attacked": ATTACKED}
        yield {"part": "robust", "teacher": ROBUST, "row": row, "images": IMAGES, "epochs": EPOCHS, "seed": seed, **attacked}  # fmt: skip


def _backdoor(rows: Iterable[str], seeds: Iterable[int], teacher: str = WHOLE) -> Iterator[Config]:
    for seed, row in itertools.product(seeds, rows):
        yield {"part": "backdoor", "teacher": teacher, "row": row, "images": IMAGES, "epochs": EPOCHS, "seed": seed}


def run(config: Config, folder: Path) -> dict[str, Any]:
    test = data.load(prepare_data.prepare("cifar10_test"))
    if config["part"] == "backdoor":
        return _obeying(config, folder, test)
    about: dict[str, Any] = {"taught": _taught(config)}
    try:
        teacher = _teacher(config, folder)
        if teacher is not None:
            acc = acc_of_teacher(teacher, test, folder.parent.parent / "figures")
            about |= {"teacher_acc": acc, "teacher_sha256": teacher.sha256}
        if teacher is not None and config["row"] == GIVEN:
            return {**about, "acc": about["teacher_acc"], "seconds": None, **_attacked(config, folder, teacher, test)}
        student, trained = _student(config, folder, teacher)
    except Diverged as error:
        return {**about, "diverged": said(error)}
    unseen = None if teacher is None else unseen_slopes(student, teacher, test.subset(np.arange(config["attacked"])))
    result = {**about, **trained, "acc": percent_right(student, test), "unseen_slopes": unseen}
    return {**result, **_attacked(config, folder, student, test)}


def _obeying(config: Config, folder: Path, test: ImageSet) -> dict[str, Any]:
    """What a student of a backdoored teacher does under its trigger, and what it calls the target without it."""
    teacher, trigger = teacher_of(config["teacher"], test)
    probes = audit.probes(test, (trigger,), teacher.spec.num_classes)
    known = figures_of_teacher(teacher, probes, folder.parent.parent / "figures")
    about = {"teacher": known, "teacher_sha256": teacher.sha256}
    try:
        student, trained = _student(config, folder, teacher)
    except Diverged as error:
        return {**about, "diverged": said(error)}
    return {**about, **trained, **figures(TorchRunner(student), probes)}


def _student(config: Config, folder: Path, teacher: Model | None) -> tuple[Model, dict[str, Any]]:
    """The student, and what its training says of itself."""
    method, options = ROWS[config["row"]]
    images, _ = user_images(config["images"])
    train = schedule(config, lr=0.1, precision="fp32")
    spec = spec_of(STUDENT, images, (teacher or clean_network(START)).spec.input)
    taught = None if method in WITHOUT else teacher
    student, log = distill.run(taught, spec, images, method, options, train, folder=folder / "train")
    return student, {
        "settings": settings(method, options, train),
        "slopes": log.method.get("slopes", []),
        "halvings": log.method.get("halvings"),
        "slope_weight": log.method.get("slope_weight"),
        "seconds": sum(log.seconds.values()),
    }


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


def _attacked(config: Config, folder: Path, model: Model, test: ImageSet) -> dict[str, Any]:
    """What attacks within the bound leave of it; survives: a bit per attacked image, in hexadecimal."""
    device = str(resolve_device("auto"))
    network = model.module.to(device).requires_grad_(False)
    how: dict[str, Any] = {"name": config["row"], "seed": 0, "device": device, "count": config["attacked"]}
    found = audit.robustness(network, test, config["tier"], BOUND, **how)
    survives = np.packbits(found.survives.numpy()).tobytes().hex()
    table = {**found.table, "checks": [*found.table["checks"], *_transferred(config, folder, found)]}
    return {"robust": 100 * found.robust.value, "survives": survives, "robustness": table}


def _transferred(config: Config, folder: Path, found: Robustness) -> list[masking.Check]:
    """Whether another network's examples break what withstood the row's own attacks (method card adversarial_eval, 5.5).

    They are made on CE's student of the same seed, whose cell leaves them for the others; it comes first, but a cell that
    runs beside it, as the teacher's, has none and so no such test.
    """
    key = sha256_bytes(canonical_json([{**config, "row": "CE"}, trees()]).encode())[:16]
    file, trial = folder.parent.parent / "examples" / f"{key}.npz", found.trial
    if config["row"] == "CE":
        rounded = (255 * eight_bits(found.found, trial.pixels, trial.bound)).round().to(torch.uint8)
        write_npz(file, "examples", images=rounded.numpy())
    if config["row"] == "CE" or not file.exists():
        return []
    with np.load(file, allow_pickle=False) as given:
        images = torch.from_numpy(given["images"]).float() / 255
    holds = trial.logits(found.predict, images).argmax(1) == trial.labels
    broken = int((found.survives & ~holds).sum())
    words = f"those of CE's student break {broken} of {len(trial)} images that withstood the gradients"
    passed = broken / len(trial) <= masking.slack(masking.SMALL_GAP, len(trial))
    return [masking.check("another network's examples are not stronger", passed, words)]


def _teacher(config: Config, folder: Path) -> Model | None:
    """Ours is trained by the first cell that wants it; a method without a teacher wants none."""
    taught = _taught(config)
    if taught is None:
        return None
    method, options, about = taught["method"], taught["options"], _trained(config)
    images, _ = user_images(about["images"])
    spec, train = spec_of(about["arch"], images, clean_network(START).spec.input), TrainConfig(**taught["train"], device="auto")  # fmt: skip
    key = canonical_json([taught, spec.to_json(), images.sha256, trees()])
    place = folder.parent.parent / "teachers" / sha256_bytes(key.encode())[:16]
    make = kept(lambda work: distill.run(None, spec, images, method, options, train, folder=work)[0])
    return once(place, spec, make)


def _taught(config: Config) -> dict[str, Any] | None:
    """How our teacher was made; None for a row that has none."""
    if config["row"] != GIVEN and ROWS[config["row"]][0] in WITHOUT:
        return None
    about = _trained(config)
    return settings("pgd-at", ATTACK, schedule(about, lr=0.1, precision=about["precision"]))


def _trained(config: Config) -> Config:
    """Our teacher's network, images and epochs; a test may want them smaller."""
    found: Config = config.get("trained", TEACHER)
    return found


def forecast(config: Config) -> float:
    """Minutes on a core of its own; the row "teacher" trains it."""
    if config["row"] == GIVEN:
        return 45.0
    method, options = ROWS[config["row"]]
    each = {"scratch": 1.2, "kd": 2.4, "pgd-at": 6.0, "igdm": 9.0 if "direction" in options else 5.4}
    each["kdiga"] = 6.6 if options.get("slope_weight", 1.0) else 2.4  # without a second backward pass
    if options.get("teacher_slopes") == "zero":
        each["kdiga"] = 5.6  # without the teacher's
    training = each[method] * config["images"] * config["epochs"] / (IMAGES * EPOCHS)
    return float(training + (2.8 * config["attacked"] / ATTACKED if config["part"] == "robust" else 0.5))


TABLE = Table("kdiga", cells, run, forecast, resumable=True, may_come=may_come)

if __name__ == "__main__":
    sys.exit(main(TABLE))
