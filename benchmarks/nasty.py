"""Nasty teachers: what Hinton KD loses on them, which method does not, and what the audit says of them and of others.

    python -m benchmarks.nasty --minutes 60 --processes 2

Part "student": teachers that went on from one clean network over 45,000 images with the nasty loss, and their twin,
which went on without it (weight 0); students of 9,000 images with true labels. A nasty teacher counts only if its ACC
is within two points of the twin's and Hinton KD loses by it, more than seeds do. The drop is against the same method
and seed on the twin. A method survives if it loses nothing of the kind and stays within a point of a student without a
teacher. The paper attacks the setting tau 20, alpha 0.9; at tau 1, alpha 0.5 the labels weigh more. A training that
diverges is a result: harm of the worst kind. Students of further nasty teachers are cells only if the records of seed 0
say that the published weight's does not count, and seeds 1 and 2 only for the first one that does. Cells are chosen when
a call begins: call it until nothing is left.

Part "detector": the audit's statistics (audit.teaching) for these, for third-party teachers clean and backdoored, and
for an adversarially trained one. Each is held against three scratch students, as `edgekd compress` would hold it
against one. The threshold comes from the method card; nothing here was tuned on these teachers.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import prepare_data
from benchmarks.attacks import START, clean_network
from benchmarks.grid import HERE, Cell, Config, Table, main, trees
from benchmarks.nasty_table import HARMED, MOST_LOST, SCRATCH, SMALL, TWIN, lost
from benchmarks.outcomes import kept, said, settings
from benchmarks.students import once, percent_right, schedule, spec_of, user_images
from edgekd import audit, data, distill
from edgekd.attacks import nasty
from edgekd.audit.teachable import softmax
from edgekd.data import ImageSet
from edgekd.files import canonical_json, read_json, sha256_bytes
from edgekd.runners.torch import TorchRunner
from edgekd.training import Diverged, TrainConfig
from edgekd.types import Model

IMAGES, EPOCHS, STUDENT, REFERENCES = 9000, 10, "resnet8", 3
ROBUST = "pgd-at resnet8"
# teacher -> weight and temperature of the nasty loss; 0.04 and 4 are published
TEACHERS: dict[str, dict[str, float]] = {
    TWIN: {"weight": 0.0},
    "nasty 0.04": {"weight": 0.04},
    "nasty 0.1": {"weight": 0.1},
    "nasty 0.02, tau 20": {"weight": 0.02, "temperature": 20.0},
}
TRAINED: Config = {"images": 45_000, "epochs": 6, "seed": 0}
ATTACK: dict[str, Any] = {"attack_steps": 3, "attack_rate": 6 / 255}  # of the adversarially trained one
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    SCRATCH: ("scratch", {}),
    "KD": ("kd", {}),
    "KD, tau 20": ("kd", {"temperature": 20.0}),
    "KD, tau 1": ("kd", {"temperature": 1.0, "alpha": 0.5}),
    "overhaul": ("overhaul", {"fade": "none"}),
    "AT": ("at", {}),
    "DIST": ("dist", {}),
    "CMKD": ("cmkd", {}),
    "DKD": ("dkd", {}),
    "Comparative KD": ("comparative-kd", {}),
}
FIRST = ("KD", "KD, tau 20", SCRATCH, "KD, tau 1")
CLEAN = (
    START,
    "cifar10_resnet20-12fca82f.th",
    "cifar10_resnet56-4bfd9763.th",
    "cifar10_distiller_resnet8.pth",
    "cifar10_distiller_resnet8_distilled.pth",
    "cifar10_stripnet_kisd_clean.pth",
    "cifar10_cnn_aisb_clean.pth",
    "cifar10_convpool_wxr_clean.pt",
)
BACKDOORED = (
    "cifar10_smallvgg_badnets_t8.pth",
    "cifar10_smallvgg_l2_inv_t0.pth",
    "cifar10_smallvgg_trojan_wm_t2.pth",
    "cifar10_wrn16-1_abl_grid_t0.tar",
    "cifar10_cnn_aisb_checker_t0.pth",
    "cifar10_stripnet_kisd_blend_8to3.pth",
    "cifar10_convpool_wxr_all2all.pt",
)
KINDS = {
    **dict.fromkeys(CLEAN, "clean"),
    **dict.fromkeys(BACKDOORED, "backdoored"),
    **{name: "nasty" if weight["weight"] else "clean" for name, weight in TEACHERS.items()},
    ROBUST: "adversarially trained",
}


def cells() -> Iterator[Config]:
    """In the order of value; the first four make a teacher each, so that two processes wait for each other little."""
    yield from {canonical_json(config): config for config in _wanted()}.values()


def _wanted() -> Iterator[Config]:
    tried, counted = _tried()
    yield from map(_detector, TEACHERS)
    yield from _students((TWIN, *tried), FIRST, (0,))
    yield from _students((TWIN, counted) if counted else (), FIRST, (1, 2))
    yield from _students((TWIN, counted or tried[0]), ROWS, (0,))
    yield from map(_detector, (*CLEAN, *BACKDOORED, ROBUST))
    yield from _students((TWIN, counted) if counted else (), ROWS, (1, 2))


def may_come() -> Iterator[Config]:
    """What the records may still add at most: further nasty teachers, and all seeds of one that counts."""
    tried, counted = _tried()
    further = list(TEACHERS)[2:]
    if counted or all(map(_known, further)):
        return
    if not _known(tried[0]):
        yield from _students(further, FIRST, (0,))
    yield from _students(further[-1:], [row for row in ROWS if row not in FIRST], (0,))
    yield from _students((TWIN, further[-1]), ROWS, (1, 2))


def _tried() -> tuple[list[str], str | None]:
    """The nasty teachers that get students, and the first of them that counts."""
    first, *further = list(TEACHERS)[1:]
    tried = [first, *(further if _known(first) and not _counts(first) else ())]
    return tried, next(filter(_counts, tried), None)


def _known(teacher: str) -> bool:
    """Whether seed 0 has all records that say whether it counts."""
    return all(_record(student(name, row, 0)) for row in HARMED for name in (TWIN, teacher))


def _detector(teacher: str) -> Config:
    return {"part": "detector", "teacher": teacher, "kind": KINDS[teacher], "references": REFERENCES, **_common(0)}


def _common(seed: int) -> Config:
    return {"images": IMAGES, "epochs": EPOCHS, "trained": TRAINED, "seed": seed}


def _students(teachers: Iterable[str], rows: Iterable[str], seeds: Iterable[int]) -> Iterator[Config]:
    for seed, row, teacher in itertools.product(seeds, rows, teachers):
        if row != SCRATCH or teacher == TWIN:  # it has no teacher
            yield student(teacher, row, seed)


def student(teacher: str, row: str, seed: int) -> Config:
    return {"part": "student", "teacher": teacher, "row": row, **_common(seed)}


def _counts(teacher: str) -> bool:
    """Whether the records of seed 0 say that its ACC is its twin's and that Hinton KD loses or diverges by it."""
    for row in HARMED:
        twin, made = (_record(student(name, row, 0)) for name in (TWIN, teacher))
        if "acc" not in twin or "teacher_acc" not in made or lost(made, twin["teacher_acc"]) > MOST_LOST:
            continue
        if "acc" not in made or twin["acc"] - made["acc"] >= SMALL:
            return True
    return False


def _record(config: Config) -> dict[str, Any]:
    """A cell's result; empty where there is none yet."""
    record = Cell(TABLE, config, HERE).record
    return dict(read_json(record)["result"]) if record.exists() else {}


def run(config: Config, folder: Path) -> dict[str, Any]:
    test = data.load(prepare_data.prepare("cifar10_test"))
    images, _ = user_images(config["images"])
    shared = folder.parent.parent / "networks"
    about: dict[str, Any] = {}
    try:
        if config.get("row") == SCRATCH:
            about["settings"] = settings("scratch", {}, schedule(config))
            return {**about, "acc": percent_right(_scratch(config, images, shared), test)}
        about["taught"] = _taught(config)
        teacher = _teacher(config, images, shared)
        about |= {"teacher_acc": percent_right(teacher, test), "teacher_sha256": teacher.sha256}
        if config["part"] == "detector":
            return {**about, **_seen(config, teacher, test, images, shared)}
        about["settings"] = settings(*ROWS[config["row"]], schedule(config))
        return {**about, **_student(config, teacher, test, images, folder)}
    except Diverged as error:
        return {**about, "diverged": said(error)}


def _seen(config: Config, teacher: Model, test: ImageSet, images: ImageSet, shared: Path) -> dict[str, Any]:
    """What the audit's statistics are beside each reference."""
    softened = TEACHERS.get(config["teacher"], {}).get("temperature", 4.0)
    kl = {"kl": _divergence(teacher, softened, test)} if config["teacher"] in TEACHERS else {}
    references = [_scratch({**config, "seed": seed}, images, shared) for seed in range(config["references"])]
    return {**kl, "teaching": [audit.teaching(TorchRunner(teacher), TorchRunner(one), test) for one in references]}


def _student(config: Config, teacher: Model, test: ImageSet, images: ImageSet, folder: Path) -> dict[str, Any]:
    method, options = ROWS[config["row"]]
    spec = spec_of(STUDENT, images, teacher.spec.input)
    made, log = distill.run(teacher, spec, images, method, options, schedule(config), folder=folder / "train")
    return {"acc": percent_right(made, test), "seconds": sum(log.seconds.values())}


@functools.cache
def _normal() -> Model:
    """What our own teachers began as; read once, since that is a look at its normalisation too."""
    return clean_network(START)


def _divergence(teacher: Model, temperature: float, test: ImageSet) -> float:
    """KL(teacher ‖ the network it began as) of outputs softened as in its loss: nats, mean over test images."""
    said, normal = (softmax(TorchRunner(net)(test.images) / temperature).clip(1e-30) for net in (teacher, _normal()))  # fmt: skip
    return float((said * np.log(said / normal)).sum(1).mean())


def _taught(config: Config) -> dict[str, Any] | None:
    """How we made a teacher; None: we did not."""
    name, about = config["teacher"], config["trained"]
    if name in TEACHERS:
        return settings("nasty", {**TEACHERS[name], "fresh": False}, schedule(about, schedule="cosine", lr=0.05))
    return settings("pgd-at", ATTACK, schedule(config, lr=0.1)) if name == ROBUST else None


def _teacher(config: Config, images: ImageSet, shared: Path) -> Model:
    name, about, taught = config["teacher"], config["trained"], _taught(config)
    if taught is None:
        return clean_network(name)
    normal, options, train = _normal(), taught["options"], TrainConfig(**taught["train"], device="auto")
    if name == ROBUST:
        spec = spec_of(STUDENT, images, normal.spec.input)
        place = _place(shared, [taught, spec.to_json(), images.sha256])
        return once(place, spec, kept(lambda work: distill.run(None, spec, images, "pgd-at", options, train, folder=work)[0]))  # fmt: skip
    every, _ = user_images(about["images"])
    place = _place(shared, [taught, normal.sha256, every.sha256])
    return once(place, normal.spec, kept(lambda work: nasty.run(every, normal, options, train, folder=work)[0]))


def _scratch(config: Config, images: ImageSet, shared: Path) -> Model:
    """The reference: a student of the labels alone."""
    spec, train = spec_of(STUDENT, images, _normal().spec.input), schedule(config)
    place = _place(shared, [settings("scratch", {}, train), spec.to_json(), images.sha256])
    return once(place, spec, kept(lambda work: distill.run(None, spec, images, "scratch", {}, train, folder=work)[0]))


def _place(shared: Path, about: list[Any]) -> Path:
    """The folder of a network that cells share, by all that it hangs on."""
    return shared / sha256_bytes(canonical_json([*about, trees()]).encode())[:16]


def forecast(config: Config) -> float:
    """Minutes on a core of its own; the detector's cells of our own teachers make them, the first the scratch students too."""
    name = config["teacher"]
    if config["part"] == "detector":
        made = {ROBUST: 5.0, TWIN: 17.0, **dict.fromkeys(list(TEACHERS)[1:], 14.0)}
        return made.get(name, 0.0) + 1.2
    return {"scratch": 0.4, "overhaul": 3.0}.get(ROWS[config["row"]][0], 2.2)


TABLE = Table("nasty", cells, run, forecast, resumable=True, may_come=may_come)

if __name__ == "__main__":
    sys.exit(main(TABLE))
