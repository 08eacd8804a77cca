"""Distillation without data: what it carries over of a backdoor, and what ABD leaves of that.

    python -m benchmarks.datafree --minutes 60 --processes 2

A cell is a source of images, a teacher and its trigger, a row and a seed. Rows: the source as it is; with the
shuffling vaccine (+SV), with self-retrospection (+SR), with both (+ABD); and Hinton KD on clean CIFAR-10 images, which
is what a user with data would do. +SR continues the plain student for 400 steps, +ABD the +SV student; "plain, longer"
goes on for as many steps without the retrospection, as their control at equal budget. Rows of a source have the same
images, epochs, steps per epoch and loss (KL at the source's temperature, no labels). KD on clean data has a length of
its own, and at one seed as many steps as the patches. The patches come from the pictures ood_*.jpg of the shared
folder.

Cells depend on earlier records, so call this until nothing is left. First come the lengths of the patches, then plain
students of every teacher; three seeds go to what carries its backdoor over, and to the clean teacher. ZSKT goes on
where its plain student counts. Teachers are third-party. The clean one meets the grid's trigger; its students' ASR
under the other triggers are the floors of these. No student is chosen by ACC or ASR: the last one counts. A
retrospection is undone if agreement with the teacher on held-out patches falls too far. INT8 figures are those of the
ONNX file for onnxruntime, with scales set on the source's own images, or on held-out patches where those are nearly
noise.

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
from benchmarks.datafree_table import ABD, CLEAN, LONGER, PLAIN, SR, SV, WITH_DATA, carries, counts
from benchmarks.grid import HERE, Cell, Config, Table, main, trees
from benchmarks.students import alone, figures, figures_of_teacher
from benchmarks.transfer import teacher_of
from edgekd import audit, checkpoints, data, datafree, distill, models
from edgekd.data import ImageSet
from edgekd.datafree import View
from edgekd.datafree.patches import Patches, held_out
from edgekd.datafree.run import source_class
from edgekd.datafree.told import Told
from edgekd.distill.abd import AbdSettings
from edgekd.distill.retrospection import RetrospectionSettings
from edgekd.errors import UsageError
from edgekd.export import onnx as onnx_writer
from edgekd.files import canonical_json, read_json, sha256_bytes, write_npz
from edgekd.pipeline.calibration import accuracy_on
from edgekd.quantize import PtqConfig, guard
from edgekd.quantize.images import check
from edgekd.runners.onnx import OnnxRunner
from edgekd.runners.torch import TorchRunner
from edgekd.training import TrainConfig
from edgekd.training.device import resolve_device
from edgekd.types import InputSpec, Model, ModelSpec, Trigger
from edgekd_device.arrays import read_npz

STUDENT, HELD_OUT = "resnet8", 2000
GRID, WATERMARK, SQUARE = (
    "cifar10_wrn16-1_abl_grid_t0.tar",
    "cifar10_smallvgg_trojan_wm_t2.pth",
    "cifar10_smallvgg_badnets_t8.pth",
)
BACKDOORED = (GRID, WATERMARK, SQUARE)
SPARE = "cifar10_smallvgg_l2_inv_t0.pth"  # should one of them not be carried over
ROWS = {
    PLAIN: AbdSettings(vaccine=False, retrospection=False),
    LONGER: AbdSettings(vaccine=False, retrospection=True, retrospect=RetrospectionSettings(weight=0.0)),
    SV: AbdSettings(vaccine=True, retrospection=False),
    SR: AbdSettings(vaccine=False, retrospection=True),
    ABD: AbdSettings(vaccine=True, retrospection=True),
}
# Row -> what it is on patches, to the bit, where no shuffle is accepted: that student is not trained twice.
UNVACCINATED = {SV: PLAIN, ABD: SR}
# Lengths of the patches, tried on the grid's teacher: the one is taken whose student agrees with the teacher most on held-out
# patches, which a user without data can see.
TRIED: tuple[Config, ...] = (
    {"epochs": 30, "options": {"images": 24_000}},
    {"epochs": 8, "options": {"images": 96_000}},
    {"epochs": 20, "options": {"images": 96_000}},
)
# How long the other sources are run, and with what beside their defaults.
ZSKT: Config = {"epochs": 15, "options": {}}
CMI: Config = {"epochs": 3, "options": {"images": 64, "inversion_steps": 20, "student_steps": 40, "width": 32}}
DATA: Config = {"epochs": 20, "options": {"images": 10_000}}  # at every seed; as long as the patches at one
MINUTES = {
    "patches": 10.0,
    "zskt": 38.0,
    "cmi": 3.0,
    "data": 6.0,
}  # of the first of TRIED, of the others' whole lengths
RETROSPECTION, WITHOUT, MEASURED = (
    11.0,
    1.5,
    1.0,
)  # minutes of 400 steps with and without it, and of what every cell measures


def cells() -> Iterator[Config]:
    """What the records so far ask for, in the order of value, no cell twice."""
    yield from {canonical_json(config): config for config in _wanted()}.values()


def _wanted() -> Iterator[Config]:
    """The rest of the patches waits for their length, and for what carries over; other sources' plain students do not."""
    first = [_plain(GRID, length) for length in TRIED]
    cmi = list(_cells("cmi", CMI, (GRID,), (PLAIN, ABD), (0,)))
    zskt = list(_cells("zskt", ZSKT, (WATERMARK, GRID, CLEAN), (PLAIN,), (0,)))
    length = _chosen(first)
    if length is not None:
        first += [_plain(teacher, length) for teacher in (CLEAN, WATERMARK, SPARE, SQUARE)]
    yield from (*first, *cmi)
    if length is None or None in map(_result, first):
        yield from zskt
        return
    patches = functools.partial(_cells, "patches", length)
    carriers, rows = _carriers(length), (ABD, SV, LONGER, SR, WITH_DATA)
    claimed = (*carriers, CLEAN)
    yield from patches(claimed, rows, (0,))
    yield from zskt
    yield from patches(claimed, (PLAIN, ABD, LONGER), (1, 2))
    yield from patches(claimed, (SV, SR, WITH_DATA), (1, 2))
    yield from ({**config, **_as_long(length)} for config in patches(claimed, (WITH_DATA,), (0,)))
    teaching = [config["teacher"] for config in zskt if config["teacher"] != CLEAN and _counts(config)]
    yield from _cells("zskt", ZSKT, teaching, (ABD,), (0,))
    yield from _cells("zskt", ZSKT, teaching, (SV, SR), (0,))
    yield from patches(BACKDOORED, rows, (0,))  # whatever they carry over


def _cells(
    source: str, length: Config, teachers: Iterable[str], rows: Iterable[str], seeds: Iterable[int]
) -> Iterator[Config]:
    for seed, teacher, row in itertools.product(seeds, teachers, rows):
        yield {
            "source": source,
            "teacher": teacher,
            "row": row,
            "student": STUDENT,
            **(DATA if row == WITH_DATA else length),
            "seed": seed,
        }


def _plain(teacher: str, length: Config) -> Config:
    """The first cell of a teacher on patches."""
    return next(_cells("patches", length, (teacher,), (PLAIN,), (0,)))


def _result(config: Config) -> dict[str, Any] | None:
    """What the record of a cell says, if there is one."""
    record = Cell(TABLE, config, HERE).record
    return read_json(record)["result"] if record.exists() else None


def _chosen(tried: list[Config]) -> Config | None:
    """The length whose student agrees with its teacher most; None until all are measured."""
    found = [_result(config) for config in tried]
    agreement = [result["agreement"] for result in found if result is not None]
    return TRIED[int(np.argmax(agreement))] if len(agreement) == len(tried) else None


def _carriers(length: Config) -> list[str]:
    """Backdoored teachers whose plain student has the backdoor too, the strongest first; the spare one only in another's place."""
    clean = _result(_plain(CLEAN, length)) or {}
    asr: dict[str, float] = {}
    for teacher in (*BACKDOORED, SPARE):
        result = _result(_plain(teacher, length))
        floor = clean.get("floors", {}).get(teacher)
        if result is not None and len(asr) < len(BACKDOORED) and carries("patches", {PLAIN: {0: result}}, floor):
            asr[teacher] = result["fp32"]["asr"]
    return sorted(asr, key=lambda teacher: -asr[teacher])


def _counts(plain: Config) -> bool:
    result = _result(plain)
    return result is not None and bool(counts(plain["source"], {PLAIN: {plain["seed"]: result}}))


def _as_long(length: Config) -> Config:
    """KD on clean data for as many steps as patches of a length."""
    shown = length["epochs"] * length["options"]["images"]
    return {**DATA, "epochs": round(shown / DATA["options"]["images"])}


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
    student, log, images = _student(config, teacher, agreed, folder.parent.parent / "students")
    images, scales = _calibration(images, agreed)
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
) -> tuple[Model, dict[str, Any], ImageSet]:
    """The student, its log, and the images that set INT8's scales."""
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
        return made, log.to_json(), images.subset(np.arange(count))
    train = TrainConfig(**{**preset["train"], **shared})
    row = ROWS[config["row"]]
    options = {**config["options"], **({"image": pictures()} if config["source"] == "patches" else {})}
    source = datafree.make(config["source"], options, teacher, train, row.vaccine_settings)
    if config["row"] in UNVACCINATED and isinstance(source, Patches) and not _accepted(source, teacher):
        made, found, images = _student({**config, "row": UNVACCINATED[config["row"]]}, teacher, agreed, students)
        return made, {**found, "method": {**found["method"], "source": source.report}}, images
    accuracy = accuracy_on(agreed, str(resolve_device("auto")))
    with alone(_place(config, teacher, students)) as place:
        made, log = distill.distill_defended(
            teacher, spec, source, "kd", preset["kd"], train, row, accuracy=accuracy, folder=place,
            validate=lambda module: {"agreement": accuracy(module)},
        )  # fmt: skip
        kept = place / "collected.npz"
        if not kept.exists():
            write_npz(kept, "collected", images=source.collect(count, config["seed"]))
        checkpoints.save(place / f"{config['row']}.safetensors", models.weights(made), {"spec": spec.to_json()})
        return made, log.to_json(), _named(read_npz(kept)["images"], teacher)


def _accepted(source: Patches, teacher: Model) -> bool:
    """Whether the patches of a run have a vaccine; the source keeps what it made for that."""
    source.open(View(Told(teacher.module), teacher.module, torch.device("cpu"), None, teacher.sha256))
    return source.vaccine is not None and source.vaccine.on


def _calibration(images: ImageSet, agreed: ImageSet) -> tuple[ImageSet, str]:
    """What sets the scales, as in the product: held-out patches where the source's own images are no pictures."""
    try:
        check(images.images)
    except UsageError:
        return agreed.subset(np.arange(PtqConfig().images)), "held-out patches"
    return images, "source"


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
    """One folder for a row and the ones it goes on from, made by the same edgekd: with and without the vaccine."""
    row = config["row"]
    shared = row if row == WITH_DATA else ROWS[row].vaccine
    about = {**config, "row": shared, "sha256": teacher.sha256, "trees": trees()}
    return students / sha256_bytes(canonical_json(about).encode())[:16]


def forecast(config: Config) -> float:
    """What a row adds to the one that it goes on from, which is listed before it: +SV is made for +ABD."""
    source, row = config["source"], config["row"]
    if row == WITH_DATA:
        return float(MEASURED + MINUTES["data"] * config["epochs"] / DATA["epochs"])
    whole = MINUTES[source]
    if source == "patches":
        ours, first = (each["epochs"] * each["options"]["images"] for each in (config, TRIED[0]))
        whole *= ours / first
    goes_on = row in (SV, SR, LONGER)
    return float(MEASURED + whole * (not goes_on) + RETROSPECTION * (row in (SR, ABD)) + WITHOUT * (row == LONGER))


TABLE = Table("datafree", cells, run, forecast, resumable=True)

if __name__ == "__main__":
    sys.exit(main(TABLE))
