"""Distillation without data: what it carries over of a backdoor, and what ABD leaves of that.

    python -m benchmarks.datafree --minutes 60 --processes 2

A cell is a source of images, a teacher and its trigger, a row and a seed. Rows: the source as it is; with the
shuffling vaccine (+SV), with self-retrospection (+SR), with both (+ABD); and Hinton KD on clean CIFAR-10 images, which
is what a user with data would do. +SR continues the plain student, +ABD the +SV student, for a hundredth of its steps,
400 at least; "plain, longer" goes on for as many steps without the retrospection, as their control at equal budget. Rows
of a source have the same images, epochs, steps per epoch and loss (KL at the source's temperature, no labels). KD on
clean data has a length of its own. The patches come from the pictures ood_*.jpg of the shared folder.

The length of the patches is one for all rows. A first trial of 24,000 patches for 30 epochs, whose record was not kept,
fell short of the ACC below which rows do not count, so a longer one was taken; no row was chosen by it.

Cells depend on earlier records, so call this until nothing is left. First come plain students of every teacher; three
seeds go to what carries its backdoor over, and to the clean teacher (plain, longer and +ABD). +SV has one seed, except
for the watermark, which has a row with the published mask too: without the limits on how much of a class, and on how
much in one class, a shuffle may suspect. ZSKT goes from teacher to teacher where its plain students count. Teachers are
third-party. The clean one meets the grid's trigger; its students' ASR under the other triggers are the floors of these.
No student is chosen by ACC or ASR: the last one counts. A retrospection is undone if agreement with the teacher on
held-out patches falls too far, classes counted alike and suspects left out. INT8 figures are those of the ONNX file for
onnxruntime, with scales set on the source's own images, or on patches where those are nearly noise; never on images that
the agreement is measured on.

CMI's cell shows that its path runs on a CPU; its accuracy is a matter for a GPU.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import prepare_data
from benchmarks.attacks import START, clean_network
from benchmarks.datafree_table import (  # fmt: skip
    ABD,
    CARRIES,
    CLEAN,
    LONGER,
    PLAIN,
    PUBLISHED,
    SR,
    SV,
    WITH_DATA,
    carries,
    counts,
)
from benchmarks.grid import HERE, Cell, Config, Table, main, trees
from benchmarks.students import alone, figures, figures_of_teacher
from benchmarks.transfer import teacher_of
from edgekd import audit, checkpoints, data, datafree, distill, models
from edgekd.data import ImageSet
from edgekd.datafree import VaccineSettings, View
from edgekd.datafree.patches import Patches, held_out
from edgekd.datafree.run import source_class
from edgekd.datafree.told import Told
from edgekd.distill.abd import AbdSettings
from edgekd.distill.retrospection import LEAST_STEPS, RetrospectionSettings
from edgekd.export import onnx as onnx_writer
from edgekd.files import canonical_json, read_json, sha256_bytes, write_npz
from edgekd.pipeline.calibration import accuracy_on, agreement_without, scale_images
from edgekd.quantize import PtqConfig, guard
from edgekd.runners.onnx import OnnxRunner
from edgekd.runners.torch import TorchRunner
from edgekd.training import TrainConfig
from edgekd.training.device import resolve_device
from edgekd.types import InputSpec, Model, ModelSpec, Trigger
from edgekd_device.arrays import read_npz

STUDENT, HELD_OUT = "resnet8", 2000
GRID, WATERMARK, L2_INV = (
    "cifar10_wrn16-1_abl_grid_t0.tar",
    "cifar10_smallvgg_trojan_wm_t2.pth",
    "cifar10_smallvgg_l2_inv_t0.pth",
)
BACKDOORED = (GRID, WATERMARK, L2_INV)
SPARE = "cifar10_smallvgg_badnets_t8.pth"  # should one of them not be carried over
ROWS = {
    PLAIN: AbdSettings(vaccine=False, retrospection=False),
    LONGER: AbdSettings(vaccine=False, retrospection=True, retrospect=RetrospectionSettings(weight=0.0)),
    SV: AbdSettings(vaccine=True, retrospection=False),
    PUBLISHED: AbdSettings(
        vaccine=True, retrospection=False, shuffle=VaccineSettings(most_of_a_class=1.0, most_named=1.0)
    ),
    SR: AbdSettings(vaccine=False, retrospection=True),
    ABD: AbdSettings(vaccine=True, retrospection=True),
}
# Row -> what it is on patches, to the bit, where no shuffle is accepted: that student is not trained twice.
UNVACCINATED = {SV: PLAIN, PUBLISHED: PLAIN, ABD: SR}
PATCHES: Config = {"epochs": 10, "options": {"images": 96_000}}
# How long the other sources are run, and with what beside their defaults.
ZSKT: Config = {"epochs": 15, "options": {}}
CMI: Config = {
    "epochs": 3,
    "options": {"images": 64, "inversion_steps": 20, "student_steps": 40, "width": 32},
    "retrospect": {"steps": 50},
}
DATA: Config = {"epochs": 20, "options": {"images": 10_000}}
MINUTES = {"patches": 17.0, "zskt": 38.0, "cmi": 3.0, "data": 6.0}  # of a training
POOL, SHUFFLES = 4.0, 6.0  # minutes: to make the patches, and to search a vaccine and ask it of all of them; once each
RETROSPECTION, WITHOUT, MEASURED = 11.0, 1.5, 1.0  # of 400 steps with and without it, and of what every cell measures
VACCINATED = 1.37  # times the work of a generator's training (method card abd 10.1)


def cells() -> Iterator[Config]:
    """What the records so far ask for, in the order of value, no cell twice."""
    yield from {canonical_json(config): config for config in _wanted()}.values()


def _wanted() -> Iterator[Config]:
    """Rows go from teacher to teacher, so that two processes seldom want the same half-made student."""
    patches = functools.partial(_cells, "patches", PATCHES)
    first = [*patches((PLAIN,), (CLEAN, WATERMARK, L2_INV, GRID), (0,))]
    yield from first
    yield from _cells("cmi", CMI, (PLAIN, ABD), (GRID,), (0,))
    yield from _cells("zskt", ZSKT, (PLAIN,), (WATERMARK,), (0,))
    if None in map(_result, first):
        return
    carriers = _carriers()
    if len(carriers) < len(BACKDOORED) or SPARE in carriers:
        yield _plain(SPARE)
    claimed, rows = (*carriers, CLEAN), (SR, SV, WITH_DATA)
    yield from patches((ABD, LONGER), claimed, (0,))
    yield from patches(rows, carriers, (0,))
    yield from _zskt()
    yield from patches((PLAIN, ABD, LONGER), claimed, (1, 2))
    yield from patches((SR, WITH_DATA), carriers, (1, 2))
    yield from patches((SV,), set(carriers) & {WATERMARK}, (1, 2))
    yield from patches((PUBLISHED,), (WATERMARK,), (0,))
    yield from patches((ABD, *rows), BACKDOORED, (0,))  # whatever they carry over


def _zskt() -> Iterator[Config]:
    """One teacher after another, as each costs much: the next where the one before learned, the clean one for a floor."""
    zskt = functools.partial(_cells, "zskt", ZSKT, seeds=(0,))
    (watermark,) = zskt((PLAIN,), (WATERMARK,))
    (grid,) = zskt((PLAIN,), (GRID,))
    teaching = [config["teacher"] for config in (watermark, grid) if _counts(config)]
    if WATERMARK in teaching:
        yield grid
    if any((_result(config) or {}).get("fp32", {}).get("asr", 0.0) >= CARRIES for config in (watermark, grid) if _counts(config)):  # fmt: skip
        yield from zskt((PLAIN,), (CLEAN,))
    yield from zskt((ABD, SV, SR), teaching)


def _cells(
    source: str, length: Config, rows: Iterable[str], teachers: Iterable[str], seeds: Iterable[int]
) -> Iterator[Config]:
    for row, seed, teacher in itertools.product(rows, seeds, teachers):
        yield {
            "source": source,
            "teacher": teacher,
            "row": row,
            "student": STUDENT,
            **(DATA if row == WITH_DATA else length),
            "seed": seed,
        }


def _plain(teacher: str) -> Config:
    """The first cell of a teacher on patches."""
    return next(_cells("patches", PATCHES, (PLAIN,), (teacher,), (0,)))


def _result(config: Config) -> dict[str, Any] | None:
    """What the record of a cell says, if there is one."""
    record = Cell(TABLE, config, HERE).record
    return read_json(record)["result"] if record.exists() else None


def _carriers() -> list[str]:
    """Backdoored teachers whose plain student has the backdoor too, the strongest first; the spare one only in another's place."""
    clean = _result(_plain(CLEAN)) or {}
    asr: dict[str, float] = {}
    for teacher in (*BACKDOORED, SPARE):
        result = _result(_plain(teacher))
        floor = clean.get("floors", {}).get(teacher)
        if result is not None and len(asr) < len(BACKDOORED) and carries("patches", {PLAIN: {0: result}}, floor):
            asr[teacher] = result["fp32"]["asr"]
    return sorted(asr, key=lambda teacher: -asr[teacher])


def _counts(plain: Config) -> bool:
    result = _result(plain)
    return result is not None and bool(counts(plain["source"], {PLAIN: {plain["seed"]: result}}))


def run(config: Config, folder: Path) -> dict[str, Any]:
    test = data.load(prepare_data.prepare("cifar10_test"))
    teacher, trigger = teacher_of(GRID if config["teacher"] == CLEAN else config["teacher"], test)
    if config["teacher"] == CLEAN:
        teacher = clean_network(START)
    others = (*BACKDOORED, SPARE) if config["teacher"] == CLEAN else ()
    return measured(config, folder, test, teacher, trigger, {name: teacher_of(name, test)[1] for name in others})


def measured(
    config: Config,
    folder: Path,
    test: ImageSet,
    teacher: Model,
    trigger: Trigger,
    others: Mapping[str, Trigger] | None = None,
) -> dict[str, Any]:
    """Train the student of a cell and measure it beside its teacher, in FP32 and INT8; under other triggers its ASR alone."""
    probes = audit.probes(test, (trigger,), teacher.spec.num_classes)
    agreed = _named(held_out(pictures(), teacher.spec.input.shape, HELD_OUT, config["seed"]), teacher)
    student, log, images, scales = _student(config, teacher, agreed, folder.parent.parent / "students")
    twin = guard(student, images, PtqConfig(), accuracy_on(agreed), what="agreement").twin
    onnx_writer.export(twin, folder / "model.u8s8.onnx", "u8s8", agreed.images[:32])
    shipped = OnnxRunner((folder / "model.u8s8.onnx").read_bytes())
    return {
        **({"floors": _floors(student, test, others)} if others else {}),
        "teacher": figures_of_teacher(teacher, probes, folder.parent.parent / "figures"),
        "fp32": figures(TorchRunner(student), probes),
        "int8": figures(shipped, probes),
        "agreement": 100 * accuracy_on(agreed)(student.module),
        "agreement_int8": 100 * float((shipped(agreed.images).argmax(1) == agreed.labels).mean()),
        "scales": scales,
        "method": log.get("method", {}),
        "seconds": sum(log["seconds"].values()),
        "steps": log["steps"],
        "teacher_sha256": teacher.sha256,
        "student_sha256": student.sha256,
    }


def _student(
    config: Config, teacher: Model, agreed: ImageSet, students: Path
) -> tuple[Model, dict[str, Any], ImageSet, str]:
    """The student, its log, the images that set INT8's scales, and where these are from."""
    mean, std = models.student_normalization(teacher.spec.input)
    spec = ModelSpec(config["student"], teacher.spec.num_classes, InputSpec(3, 32, 32, mean, std))
    preset = source_class(config["source"]).presets["fast"]
    shared = {"epochs": config["epochs"], "seed": config["seed"], "device": "auto"}
    count = PtqConfig().images
    if config["row"] == WITH_DATA:
        images = data.load(prepare_data.few("cifar10_train", config["options"]["images"]))
        train = TrainConfig(schedule="onecycle", lr=0.2, **shared)
        with alone(_place(config, teacher, students)) as place:
            made, log = distill.run(teacher, spec, images, "kd", preset["kd"], train, folder=place / "data")
        return made, log.to_json(), images.subset(np.arange(count)), "source"
    train = TrainConfig(**{**preset["train"], **shared})
    row = _settings(config)
    options = {**config["options"], **({"image": pictures()} if config["source"] == "patches" else {})}
    source = datafree.make(config["source"], options, teacher, train, row.vaccine_settings)
    if isinstance(source, Patches):
        _prepared(config, source, teacher, students.with_name("pools"))
        if config["row"] in UNVACCINATED and not (source.vaccine is not None and source.vaccine.on):
            other = {**config, "row": UNVACCINATED[config["row"]]}
            made, said, scales, origin = _student(other, teacher, agreed, students)
            return made, {**said, "method": {**said["method"], "source": source.report}}, scales, origin
    device = str(resolve_device("auto"))
    accuracy = accuracy_on(agreed, device)
    with alone(_place(config, teacher, students)) as place:
        made, log = distill.distill_defended(
            teacher, spec, source, "kd", preset["kd"], train, row, accuracy=accuracy, folder=place,
            judge=agreement_without(agreed, device), validate=lambda module: {"agreement": accuracy(module)},
        )  # fmt: skip
        kept = place / "collected.npz"
        if not kept.exists():
            own, chosen = scale_images(
                source, TorchRunner(teacher), count, config["seed"],
                lambda more: held_out(pictures(), source.shape, HELD_OUT + more, config["seed"])[HELD_OUT:],
            )  # fmt: skip
            write_npz(kept, "collected", images=chosen, own=np.array(own is chosen))
        checkpoints.save(place / f"{config['row']}.safetensors", models.weights(made), {"spec": spec.to_json()})
        found = read_npz(kept)
        return made, log.to_json(), _named(found["images"], teacher), "source" if found["own"] else "other patches"


def _settings(config: Config) -> AbdSettings:
    """A row's, with what its table asks of a retrospection."""
    row = ROWS[config["row"]]
    retrospect = row.retrospect.model_copy(update=config.get("retrospect", {}))
    return row.model_copy(update={"retrospect": retrospect})


def _prepared(config: Config, source: Patches, teacher: Model, pools: Path) -> None:
    """The pool and what the vaccine says of it, made by the first cell of a teacher and seed that wants it; a source keeps both."""
    about = {key: config[key] for key in ("options", "seed")} | {"sha256": teacher.sha256, "trees": trees()}
    with alone(pools / sha256_bytes(canonical_json(about).encode())[:16]) as place:
        source.open(View(Told(teacher.module), teacher.module, torch.device("cpu"), place, teacher.sha256))


def _floors(student: Model, test: ImageSet, triggers: Mapping[str, Trigger]) -> dict[str, float]:
    """What a student of the clean teacher makes of the others' triggers, in percent of ASR: their floors."""
    probes = {name: audit.probes(test, (trigger,), student.spec.num_classes) for name, trigger in triggers.items()}
    return {name: figures(TorchRunner(student), probe)["asr"] for name, probe in probes.items()}


def pictures() -> str:
    return str(prepare_data.shared_folder() / "data")


def _named(images: np.ndarray, teacher: Model) -> ImageSet:
    """Images under the teacher's labels."""
    labels = TorchRunner(teacher)(images).argmax(1).astype(np.int64)
    return ImageSet(images, labels, tuple(str(label) for label in range(teacher.spec.num_classes)), "synthetic")


def _place(config: Config, teacher: Model, students: Path) -> Path:
    """One folder for a row and the ones it goes on from, made by the same edgekd: those of one vaccine, or of none."""
    row = config["row"]
    vaccine = None if row == WITH_DATA else ROWS[row].vaccine_settings
    shared = row if row == WITH_DATA else None if vaccine is None else vaccine.model_dump(mode="json")
    about = {**config, "row": shared, "sha256": teacher.sha256, "trees": trees()}
    return students / sha256_bytes(canonical_json(about).encode())[:16]


def forecast(config: Config) -> float:
    """What a row adds to those that are listed before it: +SV is made for +ABD, which is +SR where no shuffle is accepted."""
    source, row = config["source"], config["row"]
    if row == WITH_DATA:
        return float(MEASURED + MINUTES["data"])
    patches, vaccinated = source == "patches", _vaccinated(config)
    found, whole = MEASURED, MINUTES[source] * (1.0 if patches or row not in (ABD, SV) else VACCINATED)
    if row == PLAIN:
        found += whole + POOL * patches
    if row in (ABD, PUBLISHED):
        found += SHUFFLES * patches + whole * vaccinated
    if row == ABD or (row == SR and vaccinated):
        found += RETROSPECTION * _settings(config).retrospect.length(0) / LEAST_STEPS
    return float(found + WITHOUT * (row == LONGER))


def _vaccinated(config: Config) -> bool:
    """Whether a vaccine was accepted for this teacher and seed; yes where that is not known. Only patches save a training without."""
    if config["source"] != "patches" or config["row"] not in (SR, *UNVACCINATED):
        return True
    asked = (PUBLISHED,) if config["row"] == PUBLISHED else (ABD, SV)
    found = [_result({**config, "row": row}) for row in asked]
    known = [each["method"]["source"]["vaccine"]["accepted"] for each in found if each is not None]
    return known[0] if known else True


TABLE = Table("datafree", cells, run, forecast, resumable=True)

if __name__ == "__main__":
    sys.exit(main(TABLE))
