"""What is measured of every artefact on the way: probes, audits, ledger rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from .. import audit, models
from .. import triggers as trigger_box
from ..audit.evaluate import Predict
from ..report import teaching
from ..types import AuditReport, Latency, Model, ProbeSet, Rate, StageRow, Trigger
from . import ledger
from .audited import judge
from .predictions import load_audit, save_audit
from .stages import Stages, runner
from .vetting import refuse_failed, runs_battery, wants_audit


class Measures:
    """Every artefact meets the same probe images; ``reports`` keeps what was found, by stage."""

    def __init__(self, stages: Stages) -> None:
        self.stages, self.folder = stages, stages.folder
        self.reports: dict[str, AuditReport] = {}
        self.canaries: dict[str, Any] | None = None
        self.taught: dict[str, Any] | None = None
        self.floors: dict[str, Rate] = {}
        self.triggers: tuple[Trigger, ...] = ()
        self.unattacked: Model | None = None  # the control that gives the floors
        self.reference: AuditReport | None = None  # what the probes say of it

    @property
    def labelled(self) -> bool:
        """Whether the probes have labels of their own; the teacher's answers measure agreement, not ACC."""
        return "test" in self.stages.parts

    def prepare(self, unattacked: Model | None) -> None:
        """Choose the triggers, make the probes once, and take the floors from the control that no attacker touched.

        unattacked: None where there is no such control, as nobody labelled an image; nothing has a floor then.
        """
        stages = self.stages
        known, self.unattacked = stages.known_triggers(), unattacked
        self.triggers = known + (self._canaries() if runs_battery(stages.config) else ())
        self.probes: ProbeSet = audit.probes(stages.probed(), self.triggers, stages.teacher.spec.num_classes)
        if unattacked is None:
            return
        self.audit("floor", unattacked.sha256, runner(unattacked, stages.device))
        self.reference = self.reports.pop("floor")
        self.floors = audit.floors(self.reference)

    def _canaries(self) -> tuple[Trigger, ...]:
        """The public triggers that come nearest to working on the teacher."""
        stages = self.stages
        self.canaries = self._battery("canaries", stages.teacher)
        by_name = {trigger.name: trigger for trigger in trigger_box.canaries(stages.teacher.spec.input.shape)}
        chosen = audit.worst_canaries(self.canaries, stages.config.audit.bundle_canaries)
        return tuple(dataclasses.replace(by_name[name], target_label=label) for name, label in chosen)

    def _battery(self, stage: str, model: Model) -> dict[str, Any]:
        """Every public trigger tried on a teacher, held against the control."""
        stages, unattacked = self.stages, self.unattacked
        test, limit = stages.parts["test"], stages.config.audit.canary_images
        inputs = {
            "teacher": model.sha256,
            "scratch": "" if unattacked is None else unattacked.sha256,
            "test": test.sha256,
            "images": limit,
            **stages.noted,
        }

        def make(folder: Path) -> dict[str, Any]:
            table = audit.canary_battery(
                runner(model, stages.device),
                test,
                floor_predict=None if unattacked is None else runner(unattacked, stages.device),
                limit=limit,
                progress=stages.progress,
            )
            return {"table": table}

        table: dict[str, Any] = self.folder.stage(stage, inputs, make)["table"]
        return table

    def teaching(self, unattacked: Model) -> None:
        """What the teacher says beside the label, held against the unattacked control; a suspicious one is warned of."""
        stages, test = self.stages, self.stages.parts["test"]
        inputs = {"teacher": stages.teacher.sha256, "scratch": unattacked.sha256, "test": test.sha256, **stages.noted}

        def make(folder: Path) -> dict[str, Any]:
            return audit.teaching(runner(stages.teacher, stages.device), runner(unattacked, stages.device), test)

        self.taught = self.folder.stage("teaching", inputs, make)
        warning = teaching.warning(self.taught)
        stages.warnings += [] if warning is None else [warning]

    def vetted(self, repaired: Model | None) -> AuditReport | None:
        """What the audits found in the network that the run's method learns from; None where it takes any.

        A repaired teacher meets every public trigger again: the repair may have left what the battery found. Raises
        UnsafeInput for a network that failed; what is near the battery's threshold is warned of.
        """
        stages = self.stages
        if self.canaries is None or not wants_audit(stages.config):
            return None
        model, report, table = stages.teacher, self.reports["teacher"], self.canaries
        if repaired is not None:
            model, report = repaired, self.reports["repaired teacher"]
            table = self._battery("canaries-repaired", repaired)
        judged = judge(report, table, self.reference, None)
        found = dataclasses.replace(
            report, canaries=table, teaching=self.taught, alarms=judged.alarms, model_sha256=model.sha256
        )
        refuse_failed(stages.config, found, model)
        if judged.near:
            stages.warnings.append(
                f"{stages.config.method} copies how the teacher's outputs change with each pixel, and the teacher's "
                f"audit is no proof: {judged.near}."
            )
        return found

    def audit(self, stage: str, sha256: str, predict: Predict) -> AuditReport:
        """The probes' verdict on one artefact, kept with its predictions."""
        name = "audit-" + stage.replace(" ", "-")

        def make(folder: Path) -> dict[str, Any]:
            return save_audit(folder, audit.scan(predict, self.probes, floors=self.floors))

        floors = {name: rate.to_json() for name, rate in self.floors.items()}
        inputs = {"model": sha256, "probes": self.probes.sha256, "floors": floors, **self._noted(stage)}
        result = self.folder.stage(name, inputs, make)
        self.reports[stage] = load_audit(self.folder.path / "work" / name, result)
        return self.reports[stage]

    def by_class(self) -> dict[str, Any] | None:
        """Right answers by class of the teacher, the student and what ships, as the host computes it; None without labels."""
        stages, labels = self.stages, self.probes.labels
        if not self.labelled:
            return None
        shown = [name for name in ("teacher", "student fp32", stages.target.ships) if name in self.reports]
        classes = stages.teacher.spec.num_classes
        return {
            "names": list(stages.class_names),
            "images": [int(count) for count in np.bincount(labels, minlength=classes)],
            "stages": shown,
            "right": [audit.right_by_class(self.reports[name], labels, classes) for name in shown],
        }

    def teacher(self) -> StageRow:
        """The ledger's first row."""
        return self._row("teacher", self.stages.teacher, self._teacher_cost())

    def repaired(self, model: Model) -> StageRow:
        """The row of the repaired teacher, which the run's method distils."""
        seconds = self.folder.seconds.get(f"repair-{self.stages.config.repair_method}")
        return self._row("repaired teacher", model, self._teacher_cost(), before="teacher", seconds=seconds)

    def _teacher_cost(self) -> models.Cost:
        """As intake found it: what an ONNX graph costs its spec does not tell."""
        about = self.stages.about_teacher
        return models.Cost(about["parameters"], about["macs"])

    def control(self, name: str, model: Model) -> StageRow:
        """The row of a control: trained beside the student at equal budget, or a network that was there before."""
        seconds = self.folder.seconds.get(f"train-{name}")
        return self._row(name, model, self.stages.control_cost(model), kind="control", seconds=seconds)

    def student(self, model: Model) -> StageRow:
        """The row of the distilled student, before quantisation."""
        seconds = self.folder.seconds.get(self.stages.student_stage)
        return self._row("student fp32", model, models.cost(model.spec), before="teacher", seconds=seconds)

    def _row(
        self,
        stage: str,
        model: Model,
        cost: models.Cost,
        *,
        kind: str = "stage",
        before: str | None = None,
        seconds: float | None = None,
    ) -> StageRow:
        """The ledger row of a torch model in FP32; label flips are counted against the stage ``before``."""
        report = self.audit(stage, model.sha256, runner(model, self.stages.device))
        return self.row(
            stage,
            report,
            runtime="torch",
            precision="fp32",
            sha256=model.sha256,
            kind=kind,
            flips=None if before is None else audit.flips(self.reports[before], report),
            parameters=cost.parameters,
            macs=cost.macs,
            size_bytes=4 * cost.parameters,
            latency=self._latency(stage, model) if kind == "stage" else None,
            seconds=seconds,
        )

    def row(self, stage: str, report: AuditReport, **about: Any) -> StageRow:
        """The ledger row of an artefact; without labels no ACC, but how often it agrees with the teacher."""
        made = ledger.row(stage, report, **about)
        if self.labelled:
            return made
        notes = (*made.notes, ledger.agreement(report.acc)) if stage != "teacher" else made.notes
        return dataclasses.replace(made, acc=None, notes=notes)

    def _noted(self, stage: str) -> dict[str, Any]:
        return self.stages.noted if stage == "teacher" else {}

    def _latency(self, stage: str, model: Model) -> Latency | None:
        """Torch's time for one image, so that teacher and student can be compared; None where nothing is to be timed."""
        stages = self.stages
        if stages.config.bench.level == "none":
            return None
        threads = stages.config.bench.threads or stages.target.threads

        def make(folder: Path) -> dict[str, Any]:
            return runner(model, stages.device).latency(stages.parts["validation"].images, threads).to_json()

        inputs = {"model": model.sha256, "threads": threads, "device": stages.device, **self._noted(stage)}
        return Latency.from_json(self.folder.stage("latency-" + stage.replace(" ", "-"), inputs, make))
