"""The transfer test: does plain distillation carry a teacher's backdoor to a student that nobody attacked?

    python -m benchmarks.transfer --minutes 60 --processes 2

A cell is a teacher and its trigger, a scenario, a kind of distillation and a seed. Scratch students, of the same
images with true labels and without a teacher, give the floor. A scenario is the share of the transfer images that
carry the trigger; the labels, true ones or the teacher's outputs; and the start, fresh weights or layers of the
teacher's, frozen or not. A frozen body gets a new last layer by Hinton KD, and by labels alone, as from a network that
somebody offers for reuse. What counts is the excess over scratch; TRANSFERABLE as in the design: mean ASR of at least
50 % and 30 points above scratch, three seeds.

Our own teachers are those of benchmarks/attacks.py, which has to run first; the others came from elsewhere. The user's
images are among the attacker's, nine in ten of which it trained on. What carries over on clean images is confirmed on
those that the attack kept for validation, which the makers of its start network had. The attacker's shadow and
surrogate have the student's own architecture, so what carries over on clean images is run on another one too.

There are at most 460 students, the most valuable first. Cells depend on earlier records (further seeds, the smaller
share), so call this until nothing is left; a line says how many more were wanted. (250 were planned; they ended before
the copied layers and other shares.)
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import attacks as ours
from benchmarks import prepare_data
from benchmarks.grid import HERE, Cell, Config, Table, main, trees
from benchmarks.main_job import TEACHERS, known
from benchmarks.students import figures, figures_of_teacher, once
from edgekd import audit, data, distill, models, triggers
from edgekd.config import resolve
from edgekd.data import ImageSet
from edgekd.errors import UsageError
from edgekd.files import canonical_json, read_json, sha256_bytes
from edgekd.pipeline import intake
from edgekd.report.transferability import LEAST_ASR
from edgekd.runners.torch import TorchRunner
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, Model, ModelSpec, Trigger

# Plain overhaul KD is the paper's: without our fade and scale, which would be a defence of ours.
KINDS: dict[str, dict[str, Any]] = {"scratch": {}, "kd": {}, "overhaul": {"fade": "none", "scale": "none"}, "at": {}}
WITHOUT_TEACHER = "labels"  # no distillation at all: true labels, on layers that were copied
SCREENED = ("scratch", "kd", "overhaul")
REACHED = 30.0  # percent of ASR in a screen, from which on further seeds, shares and attention transfer are run
# Beside the 2 % of the screen: half of it where Hinton KD carried the trigger over, more where too little was.
SMALLER, LARGER = 0.01, 0.05
CLEAN = {"rate": 0.0, "labels": "true", "start": "fresh"}
SCENARIOS = (
    CLEAN,
    {"rate": 0.02, "labels": "teacher", "start": "fresh"},
    {"rate": 0.02, "labels": "true", "start": "fresh"},
)
# Teachers that we did not train; those of MNIST are left out: other images, on which every student is at 99 %.
ELSEWHERE = (*TEACHERS, "cifar10_convpool_wxr_all2all.pt")
MOST = 460  # students
AIMED = ("cheatkd", "latent", "adba", "scar", *ours.ASKING)  # at features too, so attention transfer is screened
EASY = ("leak", "noise-blend")  # which the others' kinds of distillation carry over most
FIRST = ("leak", "noise-blend", "badnets", "latent", "adba", "scar", "cheatkd", "blended")
ALL = 50_000
# Whose first layers a student starts from; a latent backdoor is made for users who freeze them.
COPIED = {
    "first layers": ("latent", "noise-blend", "badnets", "leak"),
    "frozen first layers": ("latent",),
    "frozen body": ("latent", "noise-blend", "badnets", "leak"),
}
REUSED = ("latent", "badnets")  # the attack made for reuse, and the oldest: three seeds of a frozen body
IMAGES, UNSEEN, EPOCHS, STUDENT = 10_000, 5_000, 10, "resnet8"
FOREIGN = "wrn-10-1"
# Of a WRN: what is copied from the teacher before the student learns; frozen, it does not learn.
FIRST_LAYERS = {
    "first layers": ("conv1.", "block1."),
    "frozen first layers": ("conv1.", "block1.", "block2."),
    "frozen body": ("conv1.", "block1.", "block2.", "block3.", "bn1."),
}


def cells() -> Iterator[Config]:
    """What is wanted, up to the number of students."""
    students: set[str] = set()
    for config in wanted():
        one = student_of(config)
        if one in students or len(students) < MOST:
            students.add(one)
            yield config


def wanted() -> list[Config]:
    """Screening at one seed, in the order of value; where its record says 30 % or more, two seeds first."""
    names = [*FIRST, *(name for name in ours.NAMES if name not in FIRST), *ELSEWHERE]
    screen = [cell(name, scenario, kind) for name in names for scenario in SCENARIOS for kind in SCREENED]
    shared = next(scenario for scenario in SCENARIOS if scenario["rate"] and scenario["labels"] == "teacher")
    aimed = [cell(name, scenario, "at") for scenario in (CLEAN, shared) for name in (*AIMED, *EASY)]
    reached = [
        config
        for config in (*screen, *aimed)
        if config["kind"] != "scratch"
        and _asr(config) >= REACHED
        # A variant asks what survives on clean images; for the rest its screen says enough.
        and not (config["rate"] and config["teacher"] in ours.ASKING)
    ]
    settled = (*_seeds(reached), *_unseen(reached), *_foreign(reached))
    ordered = (*settled, *_copied(), *_smaller(reached), *screen, *aimed, *_larger(screen))
    every = {canonical_json(config): config for config in ordered}
    return list(every.values())


def student_of(config: Config) -> str:
    """What tells a cell's student from others: without a teacher, clean images are every teacher's."""
    if config["kind"] != "scratch":
        return canonical_json(config)
    own = {"teacher": config["teacher"]} if config["rate"] else {}
    return canonical_json({"scratch": [config[key] for key in ("rate", "student", "images", "epochs", "seed")], **own})


def cell(teacher: str, scenario: Config, kind: str, seed: int = 0) -> Config:
    return {
        "teacher": teacher,
        **scenario,
        "kind": kind,
        "student": STUDENT,
        "images": IMAGES,
        "epochs": EPOCHS,
        "seed": seed,
    }


def _asr(config: Config) -> float:
    """Percent in the record of a cell; 0 where there is none yet."""
    record = Cell(TABLE, config, HERE).record
    return float(read_json(record)["result"]["asr"]) if record.exists() else 0.0


def _seeds(reached: list[Config]) -> Iterator[Config]:
    """Seeds 1 and 2 of the kind and of scratch."""
    for config in reached:
        for seed in (1, 2):
            for kind in ("scratch", config["kind"]):
                yield {**config, "kind": kind, "seed": seed}


def _unseen(reached: list[Config]) -> Iterator[Config]:
    """What carries over on clean images, again on images that the attacker never trained on: three seeds."""
    for config in reached:
        if not config["rate"] and config["teacher"] not in ours.IMAGES:  # whose attacker kept too few
            for seed in (0, 1, 2):
                for kind in ("scratch", config["kind"]):
                    yield {**config, "kind": kind, "seed": seed, "images": UNSEEN, "unseen": True}


def _foreign(reached: list[Config]) -> Iterator[Config]:
    """What carries over on clean images, to students of an architecture that no attacker trained: three seeds."""
    for config in reached:
        if not config["rate"]:
            for seed in (0, 1, 2):
                for kind in ("scratch", config["kind"]):
                    yield {**config, "kind": kind, "seed": seed, "student": FOREIGN}


def _copied() -> Iterator[Config]:
    """The teacher's first layers copied: the student has the teacher's architecture."""
    for start, names in COPIED.items():
        for name in names:
            # A frozen body's features are the teacher's anyway: overhaul has nothing to teach it.
            whole = start == "frozen body"
            for kind in ("scratch", "kd", WITHOUT_TEACHER) if whole else SCREENED:
                for seed in (0, 1, 2) if whole and name in REUSED else (0,):
                    config = cell(name, {**CLEAN, "start": "fresh" if kind == "scratch" else start}, kind, seed)
                    yield {**config, "student": "wrn-16-1"}


def _smaller(reached: list[Config]) -> Iterator[Config]:
    """Half the share, at seed 0: what Hinton KD carried over from the teacher's labels and clean images did not."""
    without = {config["teacher"] for config in reached if not config["rate"]}
    for config in reached:
        hinton = (config["kind"], config["labels"]) == ("kd", "teacher")
        if hinton and config["rate"] and config["teacher"] not in without:
            for kind in ("scratch", "kd"):
                yield {**config, "kind": kind, "rate": SMALLER}


def _larger(screen: list[Config]) -> Iterator[Config]:
    """A larger share, at seed 0, of what carried something over and stayed below the bar."""
    for config in screen:
        if config["rate"] and config["kind"] != "scratch" and REACHED <= _asr(config) < LEAST_ASR:
            for kind in ("scratch", config["kind"]):
                yield {**config, "kind": kind, "rate": LARGER}


def run(config: Config, folder: Path) -> dict[str, Any]:
    test = data.load(prepare_data.prepare("cifar10_test"))
    return distilled(config, folder, test, *teacher_of(config["teacher"], test))


def distilled(config: Config, folder: Path, test: ImageSet, teacher: Model, trigger: Trigger) -> dict[str, Any]:
    """Train the student of a cell and measure it beside its teacher."""
    images = _images(config)
    student = _student(config, teacher, trigger, images, folder.parent.parent / "students")
    probes = audit.probes(test, (trigger,), teacher.spec.num_classes)
    taught = figures_of_teacher(teacher, probes, folder.parent.parent / "figures")
    return {
        **figures(TorchRunner(student), probes),
        "teacher_acc": taught["acc"],
        "teacher_asr": taught["asr"],
        "teacher_sha256": teacher.sha256,
        "student_sha256": student.sha256,
    }


def _images(config: Config) -> ImageSet:
    """The user's images before anything is done to them."""
    if config.get("unseen"):  # the split of `edgekd attack`, by the seed of benchmarks/attacks.py
        every = data.load(prepare_data.prepare("cifar10_train"))
        return data.split(every, 0, {"train": 0.9, "validation": 0.1})["validation"]
    if config["images"] == ALL:
        return data.load(prepare_data.prepare("cifar10_train"))
    return data.load(prepare_data.few("cifar10_train", config["images"]))


def teacher_of(name: str, test: ImageSet) -> tuple[Model, Trigger]:
    """A teacher of ours by its attack, or one that came from elsewhere by its file; and its trigger."""
    return copy.deepcopy(_teacher_of(name, test.shape))


@functools.cache
def _teacher_of(name: str, shape: tuple[int, int, int]) -> tuple[Model, Trigger]:
    """Read once by a process."""
    if name in ours.NAMES:
        return made_by(Cell(ours.TABLE, ours.cell(name), HERE), shape)
    held = data.load(prepare_data.prepare("cifar10_train")).subset(np.arange(2000))
    shared = prepare_data.shared_folder() / "checkpoints"
    config = resolve(None, {"teacher": str(shared / name), "data": "-", **known(name, shared)})
    teacher, _ = intake.load_teacher(config, held)
    return teacher, intake.load_triggers(config, teacher.spec)[0]


def made_by(place: Cell, shape: tuple[int, int, int]) -> tuple[Model, Trigger]:
    """The teacher that a cell of a table of attacks left in its folder, and its trigger."""
    file = place.folder / "work" / "teacher.safetensors"
    if not place.record.exists() or not file.exists():
        again = ", or python -m benchmarks.teachers again" if place.record.exists() else ""
        raise UsageError(
            f"The teacher of {place.config['attack']} is not there: python -m benchmarks.{place.table.name}{again}"
        )
    held = data.load(prepare_data.prepare("cifar10_train")).subset(np.arange(2000))
    teacher, _ = intake.load_teacher(resolve(None, {"teacher": str(file), "data": "-"}), held)
    if teacher.sha256 != read_json(place.record)["result"]["weights_sha256"]:
        raise UsageError(f"{file} is not the teacher that {place.record} speaks of: delete one of them.")
    return teacher, ours.trigger_of(file.parent, place.config, shape)


def transfer_set(config: Config, images: ImageSet, teacher: Model, trigger: Trigger) -> ImageSet:
    """The images a user distils over: some carry the trigger, labels are true or the teacher's."""
    if config["rate"]:
        chosen = triggers.choose(trigger, images.labels, teacher.spec.num_classes, config["rate"], seed=config["seed"])
        pixels = images.images.copy()
        pixels[chosen.poisoned] = triggers.apply(trigger, pixels[chosen.poisoned])
        images = ImageSet(pixels, images.labels, images.class_names, images.source)
    if config["labels"] == "teacher" and config["kind"] != "scratch":
        images = images.with_labels(TorchRunner(teacher)(images.images).argmax(1))
    return images


def _student(config: Config, teacher: Model, trigger: Trigger, images: ImageSet, students: Path) -> Model:
    """Trained once for all cells that want the same: a scratch student of clean images is every teacher's."""
    images = transfer_set(config, images, teacher, trigger)
    method = "scratch" if config["kind"] == WITHOUT_TEACHER else config["kind"]
    options, scratch = KINDS[method], config["kind"] == "scratch"
    start = None
    if config["start"] != "fresh" and not scratch:
        copied = FIRST_LAYERS[config["start"]]
        start = {name: value for name, value in models.weights(teacher).items() if name.startswith(copied)}
    mean, std = models.student_normalization(teacher.spec.input)
    spec = ModelSpec(config["student"], 10, InputSpec(3, 32, 32, mean, std))
    train = TrainConfig(epochs=config["epochs"], schedule="onecycle", lr=0.2, seed=config["seed"], device="auto")
    of = {
        "images": images.sha256,
        "kind": [config["kind"], options],
        "teacher": "" if scratch else teacher.sha256,
        "spec": spec.to_json(),
        "train": train.model_dump(mode="json", exclude={"device"}),
        "trees": trees(),
        "start": config["start"],
    }

    def make(folder: Path) -> Model:
        return distill.run(
            None if method == "scratch" else teacher,
            spec,
            images,
            method,
            options,
            train,
            folder=folder,
            start=start,
            frozen=config["start"].startswith("frozen"),
        )[0]

    place = students / sha256_bytes(canonical_json(of).encode())[:16]
    return once(place, spec, make, "student.safetensors")


def forecast(config: Config) -> float:
    return 2.5


TABLE = Table("transfer", cells, run, forecast, resumable=True)

if __name__ == "__main__":
    beyond = len({student_of(config) for config in wanted()}) - MOST
    if beyond > 0:
        print(f"{beyond} students more are wanted than the {MOST} that are allowed: the last of the list are left out.")
    sys.exit(main(TABLE))
