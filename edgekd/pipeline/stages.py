"""Intake and training: each stage asks the run folder whether it is done, and otherwise does the work."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import audit, checkpoints, distill, models, repair
from ..config import RunConfig
from ..data import ImageSet
from ..datafree import ImageSource
from ..distill.run import method_class
from ..errors import UsageError
from ..files import canonical_json, sha256_file, write_bytes, write_text
from ..quantize.images import select
from ..report import detox
from ..runners.torch import TorchRunner
from ..training import Progress, TrainConfig
from ..training.device import resolve_device, resolve_precision
from ..types import (
    AuditReport,
    Model,
    ModelSpec,
    Rate,
    Target,
    TrainLog,
    Trigger,
)
from . import intake, pictures
from .calibration import accuracy_on, trusted
from .folder import RunFolder

PARITY_IMAGES = 512
STUDENT = "student.safetensors"
SEEN = 0.03


class Stages:
    """What the trip needs at every stop: configuration, run folder, images, and what was found so far."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        parts: dict[str, ImageSet],
        target: Target,
        progress: Progress | None,
    ) -> None:
        self.config, self.folder, self.parts, self.target, self.progress = config, folder, parts, target, progress
        self.device = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        self.logs: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.about_teacher: dict[str, Any] = {}
        self.noted: dict[str, Any] = {}  # for the keys of stages that use the teacher: what its weights do not say

    # ---- intake -----------------------------------------------------------------------------------------------------

    def intake(self) -> None:
        """Read the teacher; what was found out about it is kept, so that a resumed run does not look again."""
        validation = self.parts["validation"]
        self._take_in({"validation": validation.sha256}, lambda: intake.load_teacher(self.config, validation))
        self.class_names = padded(self.parts["train"].class_names, self.teacher.spec.num_classes)
        self.warnings += [*intake.flattered(self.config), *intake.shown_often(self.config, len(self.parts["train"]))]

    def _take_in(self, seen: dict[str, Any], load: Callable[[], tuple[Model, dict[str, Any]]]) -> None:
        """The teacher and what is said of it, from ``load`` or from an earlier start; ``seen``: what ``load`` looks at."""
        inputs = {
            "teacher": checkpoints.digest(self.config.teacher),
            "arch": self.config.arch,
            "normalize": self.config.normalize,
            **seen,
        }
        sidecar = checkpoints.sidecar_of(self.config.teacher)
        if sidecar.is_file():  # no key without one: stages of other teachers that are done stay so
            inputs["sidecar"] = sha256_file(sidecar)
        found: list[Model] = []

        def make(folder: Path) -> dict[str, Any]:
            model, about = load()
            found.append(model)
            return about

        self.about_teacher = self.folder.stage("intake", inputs, make)
        self.teacher = found[0] if found else intake.rebuild(self.config, self.about_teacher)
        if self.about_teacher["format"] != "onnx" and intake.noted_spec(self.config) is not None:
            self.noted = {"teacher_spec": self.teacher.spec.to_json()}
        note = self.about_teacher["normalization"].get("note")
        self.warnings += [*self.about_teacher["warnings"], *([note] if note else [])]

    def student_spec(self) -> ModelSpec:
        """The student asked for, or the target's largest that is smaller than the teacher."""
        spec = choose_student(self.config, self.teacher, self.about_teacher, self.target)
        self.warnings += not_smaller(spec, self.about_teacher)
        return spec

    def refuse_misfits(self, student: ModelSpec, *methods: str) -> None:
        """Raise now what would otherwise be refused after some hours of training."""
        resolve_device(self.config.device)
        intake.refuse_unknown_labels(self.parts.values(), self.teacher.spec)
        for method in dict.fromkeys(methods):
            distill.check(self.teacher, student, self.images(), method, self.config.options(method))
        if self.config.repair_method:
            if method_class(self.config.method).needs == "nothing":
                raise UsageError(
                    f"{self.config.method} learns from no teacher, so there is none to repair. Leave out --repair."
                )
            repair.check(self.config.repair_method, self.teacher, self.parts["train"], self.config.repair_options)

    def refuse_unmeasurable(self) -> None:
        """Raise now what quantiser and audit would refuse: calibration images that are none, a trigger that is none."""
        select(self.parts["train"].images, self.config.quantize.images, self.config.quantize.seed)
        audit.probes(self.probed(), self.known_triggers(), self.teacher.spec.num_classes)

    def known_triggers(self) -> tuple[Trigger, ...]:
        """The triggers that the user gave."""
        return intake.load_triggers(self.config, self.teacher.spec)

    def doubt_validation(self, test: Rate | None) -> None:
        """Warn where the teacher has seen the validation images: what is chosen on them is then flattered."""
        seen = self.about_teacher["validation_acc"]
        if test is not None and seen - test.interval()[1] > SEEN:
            self.warnings.append(
                f"The teacher has ACC {seen:.1%} on the validation images and {test.value:.1%} on the test images: it "
                "was probably trained on the former, so validation figures of anything that learns from it are too "
                "good."
            )

    # ---- training ---------------------------------------------------------------------------------------------------

    def images(self) -> ImageSet | ImageSource:
        """What students learn from."""
        return self.parts["train"]

    def probed(self) -> ImageSet:
        """What every artefact is measured on."""
        return self.parts["test"]

    @property
    def student_stage(self) -> str:
        """The stage of the student that ships."""
        return trained(self.config.method, self.config.repair_method is not None)

    def train_student(self, spec: ModelSpec, repaired: Model | None, report: AuditReport | None) -> Model:
        """The student that ships; report: what the teacher's audit found."""
        return self.train(self.config.method, spec, repaired, report)

    def repair(self) -> Model | None:
        """The teacher as the run's method is to see it; None where none is to be repaired."""
        method = self.config.repair_method
        if method is None:
            return None
        options, config = self.config.repair_options, self._schedule()
        inputs = {
            "repair": method,
            "options": options,
            "train": config.model_dump(mode="json"),
            "data": {name: self.parts[name].sha256 for name in ("train", "validation")},
            "teacher": self.teacher.sha256,
            **self.noted,
        }
        accuracy = accuracy_on(self.parts["validation"], self.device)

        def make(folder: Path) -> dict[str, Any]:
            model, log = repair.run(
                method,
                self.teacher,
                self.parts["train"],
                options,
                config,
                folder=folder,
                validate=lambda module: {"acc": accuracy(module)},
                progress=self.progress,
            )
            checkpoints.save(
                folder / "model.safetensors", models.weights(model), {"spec": model.spec.to_json(), "repair": method}
            )
            return {"files": ["model.safetensors"], "log": log.to_json()}

        name = f"repair-{method}"
        self.logs[name] = self.folder.stage(name, inputs, make)["log"]
        self._write_metrics()
        tensors, _ = checkpoints.load_student(self.folder.file(name, "model.safetensors"))
        return models.build(self.teacher.spec, tensors)

    @property
    def controls(self) -> tuple[str, ...]:
        """Rows beside the student's; the one that no attacker touched among them."""
        return self.config.controls

    def control_cost(self, model: Model) -> models.Cost:
        return models.cost(model.spec)

    def unattacked(self, spec: ModelSpec) -> Model | None:
        """The control that gives every floor: trained from scratch. None where there is none."""
        return self.train("scratch", spec)

    def train(
        self, method: str, spec: ModelSpec, repaired: Model | None = None, report: AuditReport | None = None
    ) -> Model:
        """A trained network; ``method`` is a row of distill.METHODS, a control or the method of the run.

        repaired: what to distil instead of the teacher as it came. report: what its audit found, for methods that ask.
        """
        options, config = self.config.options(method), self._schedule()
        teacher = None if method_class(method).needs == "nothing" else repaired or self.teacher
        accuracy = accuracy_on(self.parts["validation"], self.device)

        def make(folder: Path) -> tuple[Model, TrainLog]:
            return distill.run(
                teacher,
                spec,
                self.parts["train"],
                method,
                options,
                config,
                folder=folder,
                validate=lambda module: {"acc": accuracy(module)},
                accuracy=accuracy,
                progress=self.progress,
                report=report,
            )

        seen = {"data": self.parts["train"].sha256}
        return self._trained(trained(method, repaired is not None), method, teacher, spec, seen, make)

    def _trained(
        self,
        name: str,
        method: str,
        teacher: Model | None,
        spec: ModelSpec,
        seen: dict[str, Any],
        train: Callable[[Path], tuple[Model, TrainLog]],
        further: Sequence[str] = (),
    ) -> Model:
        """The network of a stage that ``train`` makes from what it has ``seen``, with ``further`` files beside it."""
        inputs = {
            "method": method,
            "options": self.config.options(method),
            "student": spec.to_json(),
            "train": self._schedule().model_dump(mode="json"),
            "teacher": "" if teacher is None else teacher.sha256,
            **({} if teacher is None else self.noted),
            **seen,
        }

        def make(folder: Path) -> dict[str, Any]:
            model, log = train(folder)
            sha256 = checkpoints.save(
                folder / "model.safetensors", models.weights(model), {"spec": model.spec.to_json(), "method": method}
            )
            return {
                "files": ["model.safetensors", *further],
                "sha256": sha256,
                "spec": model.spec.to_json(),
                "log": log.to_json(),
            }

        result = self.folder.stage(name, inputs, make)
        self.logs[name.removeprefix("train-")] = result["log"]
        self._write_metrics()
        found = result["log"]["method"].get("detox", {})
        if found.get("within_max_drop") is False:
            self.warnings.append(
                "Detoxification cost the teacher more validation ACC than distill.max_drop allows, so its best state "
                "was used."
            )
        blunt = detox.warning(found)
        self.warnings += [] if blunt is None else [blunt]
        tensors, _ = checkpoints.load_student(self.folder.file(name, "model.safetensors"))
        # the spec from here, not from the folder: a folder from elsewhere could name code to run
        return models.build(self.teacher.spec if method == "finetune" else spec, tensors)

    def deliver(self) -> Path:
        """student.safetensors and its sidecar, copied from their stage to where the user looks for them."""
        made, student = self.folder.file(self.student_stage, "model.safetensors"), self.folder.path / STUDENT
        write_bytes(student, made.read_bytes(), "student")
        write_bytes(checkpoints.sidecar_of(student), checkpoints.sidecar_of(made).read_bytes(), "student")
        return student

    def _schedule(self) -> TrainConfig:
        train = self.config.train  # without data it is the source's, whose length is its own
        train = train if self.config.data_free else train.of(len(self.parts["train"]))
        precision = resolve_precision(train.precision, torch.device(self.device))  # other arithmetic is another stage
        return train.model_copy(update={"device": self.device, "precision": precision, "seed": self.config.seed})

    def _write_metrics(self) -> None:
        """metrics.jsonl: every epoch of every training so far; a training under way writes its own below work/."""
        lines = [
            canonical_json({"training": name, **epoch}) + "\n"
            for name, log in self.logs.items()
            for epoch in log["history"]
        ]
        write_text(self.folder.path / "metrics.jsonl", "".join(lines), "metrics")

    def calibration(self) -> ImageSet:
        """Training images that set the scales: those whose label the teacher shares."""
        settings = self.config.quantize
        return trusted(self.parts["train"], runner(self.teacher, self.device), settings.images, settings.seed)

    def transfer(self) -> ImageSet:
        """What a quantised student learns from: what the student learned from."""
        return self.parts["train"]

    def note(self, logs: dict[str, Any]) -> None:
        """Trainings that other stages did, for the record."""
        self.logs |= logs
        if logs:
            self._write_metrics()

    # ---- what the record says ---------------------------------------------------------------------------------------

    def disagreement(self) -> dict[str, Any] | None:
        """Teacher against label on the transfer data, the other carrier of a backdoor."""
        parts = {name: self.parts[name] for name in ("train", "validation")}

        def make(folder: Path) -> dict[str, Any]:
            found = audit.disagreement(runner(self.teacher, self.device), parts)
            for row in found["top"]:
                row["png"] = pictures.png(parts[row["part"]].images[row.pop("position")])
            return {**found, "class_names": list(self.class_names)}

        data = {name: part.sha256 for name, part in parts.items()}
        inputs = {"teacher": self.teacher.sha256, **data, **self.noted}
        return self.folder.stage("disagreement", inputs, make)

    def about_student(self, student: Model) -> dict[str, Any]:
        """The student's place in the record."""
        cost = models.cost(student.spec)
        return {
            "spec": student.spec.to_json(),
            "sha256": student.sha256,
            "parameters": cost.parameters,
            "macs": cost.macs,
            "method": self.config.method,
            **({"repair": self.config.repair_method} if self.config.repair_method else {}),
        }

    def about_data(self) -> dict[str, Any]:
        """Every split by size and hash."""
        return {
            name: {"images": len(part), "sha256": part.sha256, "source": Path(part.source).name}
            for name, part in self.parts.items()
        }


def runner(model: Model, device: str) -> TorchRunner:
    """A model as a function of uint8 images, on the device where it is measured; the model itself stays where it is."""
    if device == "cpu":
        return TorchRunner(model)
    return TorchRunner(dataclasses.replace(model, module=copy.deepcopy(model.module).to(device)), device)


def trained(method: str, repaired: bool) -> str:
    """The name of a training's stage: a control may have the run's method without its repair."""
    return f"train-{method}-repaired" if repaired else f"train-{method}"


def choose_student(config: RunConfig, teacher: Model, about: dict[str, Any], target: Target) -> ModelSpec:
    """The student asked for, or the target's largest with fewer parameters and no more MACs than the teacher."""
    mean, std = models.student_normalization(teacher.spec.input)
    inputs = dataclasses.replace(teacher.spec.input, mean=mean, std=std)
    classes = teacher.spec.num_classes
    if config.student is not None:
        return ModelSpec(config.student, classes, inputs)
    cost = models.Cost(about["parameters"], about["macs"])
    return ModelSpec(models.default_student(cost, target.default_students, inputs, classes), classes, inputs)


def not_smaller(student: ModelSpec, teacher: dict[str, Any]) -> list[str]:
    """A sentence for each cost in which the student does not come below the teacher."""
    cost = models.cost(student)
    found = []
    if teacher["parameters"] and cost.parameters >= teacher["parameters"]:
        found.append(
            f"The student {student.arch} has {cost.parameters:,} parameters, the teacher {teacher['parameters']:,}: "
            "nothing is compressed."
        )
    if teacher["macs"] and cost.macs > teacher["macs"]:
        found.append(
            f"The student {student.arch} takes {cost.macs / 1e6:.1f} M multiply-adds an image, the teacher "
            f"{teacher['macs'] / 1e6:.1f} M: it will not be faster."
        )
    return found


def padded(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Class names for every output of the teacher; those the data does not know are numbered."""
    return names + tuple(f"class {index}" for index in range(len(names), count))
