"""The student's INT8 twins on their way to export: calibrated, guarded and, where that does not suffice, distilled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .. import checkpoints, quantize
from ..config import RunConfig
from ..data import ImageSet
from ..quantize import GuardConfig
from ..quantize.ptq import quantize as quantized
from ..report import qad
from ..training import Progress
from ..types import Model
from .calibration import accuracy_on

DISTILLED = "twin.safetensors"


class Place(Protocol):
    """Where stages are kept, as a RunFolder does."""

    def stage(self, name: str, inputs: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]: ...

    def file(self, stage: str, name: str) -> Path: ...


class Passing:
    """A place for commands without a run folder: every stage is done anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stage(self, name: str, inputs: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        folder = self.path / name
        folder.mkdir()
        return make(folder)

    def file(self, stage: str, name: str) -> Path:
        return self.path / stage / name


class Material(NamedTuple):
    """What sets the scales, what a distillation learns from, and what decides; never test images."""

    calibration: ImageSet
    transfer: ImageSet
    validation: ImageSet


class Twins:
    """flavour -> the student's fake-quantised twin; how it was made is a stage, so that a killed run goes on there.

    Layers that cost more validation ACC than ``quantize.guard`` allows stay float, or than ``--max-acc-drop`` where that is
    less: what ships may lose that much since the teacher, so INT8 alone may lose no more. A distilled twin takes the place
    of the calibrated one where the validation images say that it is better.
    """

    def __init__(
        self,
        student: Model,
        images: Material,
        config: RunConfig,
        place: Place,
        *,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> None:
        self.student, self.images, self.config, self.place = student, images, config, place
        self.device, self.progress = device, progress
        self.what = "agreement" if config.data_free else "ACC"
        guard, self.limit, most = config.quantize.guard, "quantize.guard.max_drop", config.gates.max_acc_drop
        if most is not None and most / 100 < guard.max_drop:
            guard, self.limit = guard.model_copy(update={"max_drop": most / 100}), "--max-acc-drop"
        self.settings = config.quantize.model_copy(update={"guard": guard})
        self._made: dict[str, dict[str, Any]] = {}
        self._twins: dict[str, Model] = {}

    @property
    def made_from(self) -> dict[str, Any]:
        """What the calibrated twins are a function of."""
        settings = self.settings.model_dump(mode="json", exclude={"qad"})
        if self.settings.guard == GuardConfig():  # as it always was: what was made before is still good
            del settings["guard"]
        return {
            "student": self.student.sha256,
            "quantize": settings,
            "calibration": self.images.calibration.sha256,
            "validation": self.images.validation.sha256,
        }

    def __call__(self, flavour: str) -> Model:
        made = self.made(flavour)
        if flavour not in self._twins:
            settings = self._settings(flavour)
            twin = quantized(self.student, self.images.calibration, settings, made["keep"])
            if made["files"]:
                tensors, _ = checkpoints.load_student(self.place.file(_stage(flavour), DISTILLED))
                twin.module.load_state_dict(tensors)
            self._twins[flavour] = twin
        return self._twins[flavour]

    def made(self, flavour: str) -> dict[str, Any]:
        """How a twin was made, plain JSON: ``keep``, accuracies, ``log`` of its distillation and its ``sha256``, if any."""
        if flavour not in self._made:
            qad = self.config.quantize.qad
            inputs = {
                **self.made_from,
                "flavour": flavour,
                "qad": qad.model_dump(mode="json"),
                "transfer": "" if qad.when == "off" else self.images.transfer.sha256,
                "augment": self._augment,
                "seed": self.config.seed,
                "device": self.device,
            }
            self._made[flavour] = self.place.stage(_stage(flavour), inputs, lambda folder: self._make(flavour, folder))
        return self._made[flavour]

    def distilled(self, flavour: str) -> dict[str, str]:
        """{"qad": SHA-256 of the twin's tensors} where the twin was distilled; else nothing: it follows from its images."""
        sha256 = self.made(flavour)["sha256"]
        return {"qad": sha256} if sha256 else {}

    def logs(self) -> dict[str, Any]:
        """The logs of the distillations, by what the report calls them."""
        return {f"qad {flavour}": made["log"] for flavour, made in self._made.items() if made["log"]}

    def doubts(self) -> list[str]:
        """A warning for every twin that costs more accuracy than the guard allows."""
        return [
            said
            for flavour, made in self._made.items()
            for said in [qad.warning(flavour, self.what, made, self.settings.guard.max_drop, self.limit)]
            if said
        ]

    @property
    def _augment(self) -> Any:
        return "none" if self.config.data_free else self.config.train.augment

    def _settings(self, flavour: str) -> quantize.PtqConfig:
        return self.settings.model_copy(update={"flavour": flavour})

    def _make(self, flavour: str, folder: Path) -> dict[str, Any]:
        settings, accuracy = self._settings(flavour), accuracy_on(self.images.validation)
        guarded = quantize.guard(self.student, self.images.calibration, settings, accuracy, what=self.what)
        twin, kept, log = quantize.refine(
            self.student,
            guarded,
            self.images.transfer,
            settings.qad,
            accuracy,
            seed=self.config.seed,
            device=self.device,
            augment=self._augment,
            folder=folder,
            progress=self.progress,
        )
        self._twins[flavour] = twin
        sha256 = ""
        if kept:
            sha256 = checkpoints.save(folder / DISTILLED, twin.module.state_dict(), {"flavour": flavour}, "twin")
        return {
            "files": [DISTILLED] if kept else [],
            "sha256": sha256,
            "keep": guarded.keep,
            "float": guarded.exact,
            "wanted": guarded.wanted,
            "untried": guarded.untried,
            "calibrated": guarded.reached,
            "reached": log.method["qad"]["after"] if kept and log else guarded.reached,
            "log": None if log is None else log.to_json(),
        }


def _stage(flavour: str) -> str:
    return f"quantize-{flavour}"
