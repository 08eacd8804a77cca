"""From the student to what ships: quantise, export, bundle, bench."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekd_device import harness
from edgekd_device.bundle import MANIFEST, PACKAGE, PROBES

from .. import audit
from ..audit.evaluate import Predict
from ..export import bundle as bundle_writer
from ..export import onnx as onnx_writer
from ..files import canonical_json, sha256_bytes
from ..report import qad
from ..runners.onnx import OnnxRunner
from ..training import Progress
from ..types import AuditReport, DeviceReport, Model, OnnxFile, Rate, StageRow, Target
from . import ledger
from .measures import Measures
from .quantised import Material, Twins
from .stages import PARITY_IMAGES, Stages, runner

TIMES = "bench.times.npz"  # of the levels that keep raw times


class Shipment:
    """The student's way into the bundle; every file is measured before it goes in and after."""

    def __init__(self, stages: Stages, measures: Measures, student: Model) -> None:
        self.stages, self.measures, self.student = stages, measures, student
        self.folder, self.target = stages.folder, stages.target
        images = Material(stages.calibration(), stages.transfer(), stages.parts["validation"])
        self.twin = Twins(student, images, stages.config, stages.folder, device=stages.device, progress=stages.progress)
        self.files: tuple[OnnxFile, ...] = ()

    def export(self) -> tuple[OnnxFile, ...]:
        """Every ONNX file that the target asks for."""

        def make(folder: Path) -> dict[str, Any]:
            images, progress = self.stages.parts["validation"].images, self.stages.progress
            made = export(self.student, self.twin, self.target, images, folder, progress)
            return {"files": [Path(file.path).name for file in made], "onnx": [file.to_json() for file in made]}

        flavours = wanted(self.target)
        quantizers = dict.fromkeys(onnx_writer.FLAVOURS[flavour].quantizer for flavour in flavours)
        distilled = {flavour: self.twin.distilled(flavour) for flavour in quantizers if flavour}
        inputs = {
            **self.twin.made_from,
            "flavours": flavours,
            **({"qad": distilled} if any(distilled.values()) else {}),
        }
        result = self.folder.stage("export", inputs, make)
        self.files = tuple(
            dataclasses.replace(OnnxFile.from_json(v), path=str(self.folder.file("export", Path(v["path"]).name)))
            for v in result["onnx"]
        )
        self.stages.note(self.twin.logs())
        self.stages.warnings += [*self.twin.doubts(), *onnx_writer.doubts(self.files)]
        return self.files

    def simulated_row(self) -> StageRow:
        """The ledger row of the fake-quantised twin of what ships: INT8's own loss, without a runtime's."""
        shipped = next(row for row in onnx_writer.FLAVOURS.values() if row.file == self.target.ships)
        flavour, stage = shipped.quantizer or "u8s8", "student int8 simulated"

        def predict(images: np.ndarray) -> np.ndarray:  # the twin is only made where it was not audited before
            return runner(self.twin(flavour), self.stages.device)(images)

        made_from = {**self.twin.made_from, "flavour": flavour, **self.twin.distilled(flavour)}
        sha256 = sha256_bytes(canonical_json(made_from).encode())
        report = self.measures.audit(stage, sha256, predict)
        flips = audit.flips(self.measures.reports["student fp32"], report)
        row = self.measures.row(stage, report, runtime="torch", precision="int8", sha256=sha256, flips=flips)
        if self.twin.distilled(flavour):
            row = dataclasses.replace(row, notes=(*row.notes, qad.note(self.twin.made(flavour), self.twin.what)))
        if not (self.stages.config.data_free and self.measures.labelled):  # without labels the row says so already
            return row
        note = ledger.agreement(self._agreement(predict, sha256), "")
        return dataclasses.replace(row, notes=(*row.notes, note))

    def _agreement(self, predict: Predict, sha256: str) -> Rate:
        """How often an artefact gives the teacher's answer on images of nothing."""
        images = self.stages.parts["validation"]

        def make(folder: Path) -> dict[str, Any]:
            return Rate(int((predict(images.images).argmax(1) == images.labels).sum()), len(images)).to_json()

        return Rate(**self.folder.stage("agreement", {"model": sha256, "validation": images.sha256}, make))

    def reference_rows(self) -> list[StageRow]:
        """What the host's onnxruntime makes of every ONNX file: ACC, ASR and flips, no timing: equal in every run."""
        rows: list[StageRow] = []
        for file in self.files:
            stage = Path(file.path).name
            report = self.measures.audit(stage, file.sha256, host_runner(file))
            rows.append(self.measures.row(stage, report, **about(file, report, self.measures.reports["student fp32"])))
        return rows

    def bundle(self) -> str:
        """The directory that goes to the board, and student.safetensors beside it; returns the manifest's SHA-256."""
        self.stages.deliver()
        probes, bundle = self.measures.probes, self.folder.path / "bundle"
        # where labels are the teacher's these count agreement, and the board's figures must be alike
        reports = self.measures.reports
        rows = self.reference_rows()
        references = {row.stage: dataclasses.replace(row, acc=reports[row.stage].acc).to_json() for row in rows}
        predictions = {row.stage: reports[row.stage].predictions for row in rows}

        def make(folder: Path) -> dict[str, Any]:
            _, sha256 = bundle_writer.write(
                bundle,
                target=self.target,
                spec=self.student.spec,
                class_names=self.stages.class_names,
                onnx=self.files,
                probes=probes,
                floors=self.measures.floors,
                teacher_sha256=self.stages.about_teacher["sha256"],
                student_sha256=self.student.sha256,
                references=references,
                labelled=self.measures.labelled,
                answers={stage: found for stage, found in predictions.items() if found is not None},
            )
            names = [Path(file.path).name for file in self.files] + [MANIFEST, PACKAGE, PROBES]
            return {"files": [f"../../bundle/{name}" for name in names], "manifest_sha256": sha256}

        inputs = {
            "onnx": [file.sha256 for file in self.files],
            "probes": probes.sha256,
            "target": dataclasses.asdict(self.target),
            "class_names": list(self.stages.class_names),
            "references": references,
            **({} if self.measures.labelled else {"labelled": False}),
        }
        return str(self.folder.stage("bundle", inputs, make)["manifest_sha256"])

    def bench(self, manifest_sha256: str) -> DeviceReport | None:
        """The bundle measured on this machine by the device package, as a board would; None where not wanted."""
        settings = self.stages.config.bench
        if settings.level == "none":
            return None

        def make(folder: Path) -> dict[str, Any]:
            report = harness.run(
                self.folder.path / "bundle",
                level=settings.level,
                runtime="onnxruntime",
                threads=settings.threads or self.target.threads,
                progress=self.stages.progress,
                times=self.folder.path / TIMES,
            )
            kept = [] if report.raw_times is None else [f"../../{TIMES}"]
            return {"report": report.to_json(), "files": kept}

        inputs = {"manifest": manifest_sha256, "level": settings.level, "threads": settings.threads}
        return DeviceReport.from_json(self.folder.stage("bench", inputs, make)["report"])

    def ledger_rows(self, measured: DeviceReport | None) -> list[StageRow]:
        """The rows of the ONNX files: as benched, with label flips against the FP32 student; else the host's reference."""
        benched = {row.stage: row for row in measured.rows} if measured is not None else {}
        return [
            dataclasses.replace(benched[row.stage], flips=row.flips) if row.stage in benched else row
            for row in self.reference_rows()
        ]


def wanted(target: Target) -> list[str]:
    """The flavours whose files the target asks for."""
    return [flavour for flavour, row in onnx_writer.FLAVOURS.items() if row.file in target.files]


def export(
    student: Model,
    twin: Callable[[str], Model],
    target: Target,
    images: np.ndarray,
    folder: Path,
    progress: Progress | None = None,
) -> list[OnnxFile]:
    """Write every ONNX file of the target into ``folder``; parity with torch is checked on some of ``images``."""
    made: list[OnnxFile] = []
    flavours = wanted(target)
    for flavour in flavours:
        row = onnx_writer.FLAVOURS[flavour]
        if progress:
            progress("export", len(made), len(flavours), {})
        source = twin(row.quantizer) if row.quantizer else student
        made.append(onnx_writer.export(source, folder / row.file, flavour, images[:PARITY_IMAGES]))
    if progress:
        progress("export", len(flavours), len(flavours), {})
    return made


def host_runner(file: OnnxFile) -> OnnxRunner:
    """The host's onnxruntime on an exported file."""
    return OnnxRunner(Path(file.path).read_bytes(), threads=torch.get_num_threads())


def about(file: OnnxFile, report: AuditReport, exact: AuditReport) -> dict[str, Any]:
    """What a ledger row of an exported file says beside ``report``; label flips are counted against ``exact``, FP32's."""
    return {
        "runtime": "onnxruntime",
        "precision": onnx_writer.FLAVOURS[file.flavour].precision,
        "sha256": file.sha256,
        "flips": audit.flips(exact, report),
        "size_bytes": file.bytes,
    }
