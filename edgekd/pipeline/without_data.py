"""The trip without data: images come from a source, labels from the teacher, and agreement takes the place of ACC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekd_device.arrays import read_npz

from .. import audit, datafree, distill, models, repair
from ..config import RunConfig
from ..data import ImageSet
from ..datafree import ImageSource
from ..datafree.patches import held_out
from ..datafree.vaccine import none_accepted
from ..errors import UsageError
from ..files import write_npz
from ..quantize.images import select
from ..repair.run import repair_class
from ..training.device import resolve_device
from ..types import AuditReport, Model, ModelSpec, Rate, TrainLog
from . import intake
from .beside import beside, load_beside
from .calibration import accuracy_on, agreement_without, scale_images
from .stages import Stages, padded, runner, trained

VALIDATION = 1000  # synthetic images that nothing is trained on
SYNTHETIC, COLLECTED = "synthetic.npz", "collected.npz"
SKEW = 3.0  # times the median class: the teacher's favourite among images that are of no class
AGREEMENT = "agreement with the teacher on synthetic images stands in for accuracy"


class DataFreeStages(Stages):
    """As ``Stages``, with no images but test images, if any. Controls see the source plain, the student ABD's form of it."""

    def intake(self) -> None:
        """Read the teacher, and make images that nothing is trained on: patches, labelled by the teacher."""
        self._refuse_unmeasurable_wishes()
        test = self.parts.get("test")
        shape = None if test is None else test.shape
        asked = ("image_size", "channels", "num_classes")
        seen = {"shape": shape, **{name: getattr(self.config, name) for name in asked}}
        self._take_in(seen, lambda: intake.load_teacher(self.config, None, shape))
        names = () if test is None else test.class_names
        self.class_names = padded(names, self.teacher.spec.num_classes)
        validation = self._synthetic()
        self.parts |= {"train": validation, "validation": validation}
        self.warnings.append(
            f"No data was given: students learned from the source {self.config.source['name']!r}, and {AGREEMENT} where "
            "something was chosen."
        )
        if test is None:
            self.warnings.append("ACC and ASR were not measured: no labelled images were given. Give some with --test.")
        self.reference = None if test is None else self._reference(test)
        if self.reference is None:
            self.warnings.append(
                "Whether a student can learn from the teacher's outputs was not measured: detecting a teacher made to "
                "ruin its students (a nasty teacher) needs a network that learnt from labelled images. Give such "
                "images with --data, or such a network with --reference."
            )

    def _reference(self, test: ImageSet) -> Model | None:
        """The network that stands in for the scratch student."""
        other = beside("reference", self.config.reference, self.config.reference_arch)
        if other is None:
            return None
        model, self.about_reference = load_beside(self.config, other, test)
        if model.spec.num_classes != self.teacher.spec.num_classes:
            raise UsageError(
                f"The model of --reference tells {model.spec.num_classes} classes apart, but the teacher "
                f"{self.teacher.spec.num_classes}. Give one of the same task."
            )
        if model.sha256 == self.teacher.sha256:
            raise UsageError("--reference is the teacher itself. Give a network that the attacker did not make.")
        return model

    def _refuse_unmeasurable_wishes(self) -> None:
        if self.config.test is None and self.config.trigger.file is not None:
            raise UsageError("A trigger is measured on labelled images, and there are none. Give some with --test.")
        if self.config.test is None and self.config.audit.adversarial is not None:
            raise UsageError("Accuracy under attack is measured on labelled images. Give some with --test.")
        if self.config.test is None and self.config.audit.canaries:
            raise UsageError("Public triggers are measured on labelled images. Give some with --test.")

    def _synthetic(self) -> ImageSet:
        inputs = {"teacher": self.teacher.sha256, "seed": self.config.seed, "source": self._source(None).identity()}

        def make(folder: Path) -> dict[str, Any]:
            images = self._held_out(VALIDATION)
            labels = runner(self.teacher, self.device)(images).argmax(1).astype(np.int64)
            write_npz(folder / SYNTHETIC, "synthetic", images=images, labels=labels)
            return {"files": [SYNTHETIC]}

        self.folder.stage("synthetic", {**inputs, **self.noted}, make)
        found = read_npz(self.folder.file("synthetic", SYNTHETIC))
        return ImageSet(found["images"], found["labels"], self.class_names, "synthetic")

    def _held_out(self, count: int) -> np.ndarray:
        """Patches that nothing is trained on; the first ``VALIDATION`` of them are what guard and agreement judge on."""
        return held_out(self.config.source.get("image"), self.teacher.spec.input.shape, count, self.config.seed)

    def _patches(self, count: int) -> np.ndarray:
        return self._held_out(VALIDATION + count)[VALIDATION:]

    def refuse_misfits(self, student: ModelSpec, *methods: str) -> None:
        """Raise now what would otherwise be refused after some hours of training."""
        resolve_device(self.config.device)
        intake.refuse_unknown_labels(self.parts.values(), self.teacher.spec)
        for method in dict.fromkeys(methods):
            distill.check(self.teacher, student, self.images(), method, self.config.options(method))
        name = self.config.repair_method
        if name and repair_class(name).trains:
            works = ", ".join(row for row in repair.REPAIRS if not repair_class(row).trains)
            raise UsageError(
                f"The repair {name!r} needs labelled images, and there are none. Repairs that need none: {works}."
            )
        if name:
            repair.check(name, self.teacher, self.parts["train"], self.config.repair_options)

    def refuse_unmeasurable(self) -> None:
        select(self.parts["validation"].images, self.config.quantize.images, self.config.quantize.seed)
        audit.probes(self.probed(), self.known_triggers(), self.teacher.spec.num_classes)

    def images(self) -> ImageSource:
        return self._source(self.config.defence)

    def probed(self) -> ImageSet:
        return self.parts.get("test", self.parts["validation"])

    def doubt_validation(self, test: Rate | None) -> None:
        """Nothing to doubt: the teacher's own answers are no accuracy."""

    @property
    def student_stage(self) -> str:
        return "train-student"

    def _source(self, defence: distill.AbdSettings | None, teacher: Model | None = None) -> ImageSource:
        """The source, with the vaccine where there is a ``defence``."""
        vaccine = None if defence is None else defence.vaccine_settings
        name, options = self.config.source["name"], self.config.source_options
        return datafree.make(name, options, teacher or self.teacher, self._schedule(), vaccine)

    # ---- training ---------------------------------------------------------------------------------------------------

    @property
    def controls(self) -> tuple[str, ...]:
        return self.config.controls if self.reference is None else ("reference", *self.config.controls)

    def control_cost(self, model: Model) -> models.Cost:
        if model is not self.reference:
            return super().control_cost(model)
        return models.Cost(self.about_reference["parameters"], self.about_reference["macs"])

    def unattacked(self, spec: ModelSpec) -> Model | None:
        return self.reference

    def train(
        self, method: str, spec: ModelSpec, repaired: Model | None = None, report: AuditReport | None = None
    ) -> Model:
        """A control: the method on the source as it is."""
        return self._made(trained(method, False), method, spec, self.teacher, None)

    def train_student(self, spec: ModelSpec, repaired: Model | None, report: AuditReport | None) -> Model:
        teacher = repaired or self.teacher
        made = self._made(self.student_stage, self.config.method, spec, teacher, self.config.defence, report)
        self.warnings += doubts(self.logs["student"]["method"])
        return made

    def _made(
        self,
        name: str,
        method: str,
        spec: ModelSpec,
        teacher: Model,
        defence: distill.AbdSettings | None,
        report: AuditReport | None = None,
    ) -> Model:
        options, config, answers = self.config.options(method), self._schedule(), runner(self.teacher, self.device)
        source = self._source(defence, teacher)
        accuracy = accuracy_on(self.parts["validation"], self.device)
        plain = distill.AbdSettings(vaccine=False, retrospection=False)

        def train(folder: Path) -> tuple[Model, TrainLog]:
            model, log = distill.distill_defended(
                teacher,
                spec,
                source,
                method,
                options,
                config,
                defence or plain,
                folder=folder,
                accuracy=accuracy,
                judge=agreement_without(self.parts["validation"], self.device),
                validate=lambda module: {"agreement": accuracy(module)},
                progress=self.progress,
                report=report,
            )
            images, scales = scale_images(source, answers, self.config.quantize.images, self.config.seed, self._patches)
            write_npz(folder / COLLECTED, "collected", images=images, scales=scales)
            return model, log

        seen: dict[str, Any] = {"source": source.identity(), "validation": self.parts["validation"].sha256}
        seen |= {"abd": None if defence is None else defence.model_dump(mode="json")}
        return self._trained(name, method, teacher, spec, seen, train, (COLLECTED,))

    def calibration(self) -> ImageSet:
        """Images that set the scales: of the source, or patches where the source's own are no pictures."""
        kept = read_npz(self.folder.file(self.student_stage, COLLECTED))
        images, own = kept["scales"], np.array_equal(kept["scales"], kept["images"])
        said = f"INT8 scales were set on {len(images)} {'synthetic images' if own else 'patches'}"
        said += "" if own else ", as the source's own images are nearly noise"
        self.warnings.append(f"{said}. Real images, given with --data, would set them better.")
        return self._answered(images)

    def transfer(self) -> ImageSet:
        """Images of the source, as the student saw them at the end."""
        return self._answered(read_npz(self.folder.file(self.student_stage, COLLECTED))["images"])

    def _answered(self, images: np.ndarray) -> ImageSet:
        labels = runner(self.teacher, self.device)(images).argmax(1).astype(np.int64)
        return ImageSet(images, labels, self.class_names, "synthetic")

    # ---- what the record says ---------------------------------------------------------------------------------------

    def disagreement(self) -> None:
        """There is no label that the teacher could disagree with."""

    def about_data(self) -> dict[str, Any]:
        found = super().about_data()
        del found["train"]
        return found


def stages_of(config: RunConfig) -> type[Stages]:
    return DataFreeStages if config.data_free else Stages


def doubts(method: dict[str, Any]) -> list[str]:
    """What a training without data says against itself or against the teacher, a sentence each."""
    source, found = method["source"], []
    classes = np.array(source["classes"])
    middle = max(float(np.median(classes)), 1.0)
    if classes.max() > SKEW * middle:
        found.append(
            f"The teacher puts {classes.max() / classes.sum():.0%} of the source's images into class "
            f"{int(classes.argmax())}, {classes.max() / middle:.1f} times as many as into the median class: such "
            "a favourite can be a backdoor's target."
        )
    if source.get("doubt"):
        found.append(source["doubt"])
    none = none_accepted(source["vaccine"]) if source.get("vaccine") else None
    if none is not None:
        found.append(none)
    after = method.get("retrospection")
    if after is not None and not after["kept"]:
        found.append(
            f"Self-retrospection was undone: agreement with the teacher, in the mean over classes, fell from "
            f"{after['before']:.1%} to {after['after']:.1%}, more than abd.retrospect.max_drop allows."
        )
    return found
