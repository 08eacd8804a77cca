"""compress(): the whole trip from a teacher file to a measured bundle and its report, one screen of calls."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import edgekd_device

from .. import report, targets
from ..config import GateSection, RunConfig
from ..errors import UsageError
from ..files import point, write_json
from ..training import Progress
from ..types import DeviceReport, RunRecord, StageRow
from . import intake, ledger, pictures
from .environment import commit, describe
from .folder import RunFolder
from .stages import Stages

__all__ = ["RunFolder", "compress", "take_in"]


def compress(config: RunConfig, out: str | Path, *, command: str = "", progress: Progress | None = None) -> RunRecord:
    """Distil, quantise, export and measure; everything lands in the run folder ``out``.

    A run that was killed goes on where it stood when called again with the same configuration. Returns the record that
    ``run.json``, ``report.html`` and ``report.md`` are written from. Raises EdgekdError and its kin for what a user can
    mend; gates are in the record and are the caller's to act on.
    """
    with RunFolder(out).open(config) as folder:
        target = targets.get(config.target)
        parts = intake.load_data(config)
        stages = Stages(config, folder, parts, target, progress)
        teacher = stages.intake()
        student = stages.student_spec()
        stages.refuse_misfits(student, *config.controls, config.method)
        stages.refuse_unmeasurable()
        folder.claim()
        scratch = stages.train("scratch", student)
        triggers = stages.triggers(scratch)
        probes = stages.probes(triggers)
        floors = stages.floors(scratch)
        rows: list[StageRow] = [stages.row("teacher", teacher)]
        for name in config.controls:
            model = (
                scratch if name == "scratch" else stages.train(name, teacher.spec if name == "finetune" else student)
            )
            rows.append(stages.row(name, model, kind="control"))
        distilled = stages.train(config.method, student)
        rows.append(stages.row("student fp32", distilled))
        twin, onnx = stages.export(distilled)
        rows.append(stages.row("student int8 simulated", twin, precision="int8"))
        manifest_sha256 = stages.bundle(distilled, onnx, floors)
        device_report = stages.bench(manifest_sha256)
        rows += stages.ledger_rows(device_report, onnx)
        record = RunRecord(
            name=folder.path.name,
            edgekd_version=edgekd_device.__version__,
            commit=commit(),
            created_utc=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            command=command,
            config=stages.public_config(),
            teacher=stages.about_teacher,
            student=stages.about_student(distilled),
            data=stages.about_data(),
            target=target.name,
            rows=tuple(rows),
            gates=ledger.gates(config.gates, rows, target),
            verdict=ledger.verdict(rows, target, stages.canaries),
            not_tested=ledger.not_tested(
                rows, target, known=config.trigger.file is not None, canaries=stages.canaries is not None
            ),
            environment=describe(),
            manifest_sha256=manifest_sha256,
            canaries=stages.canaries,
            disagreement=stages.disagreement(),
            training=stages.logs,
            onnx=tuple(file.to_json() for file in onnx),
            pictures=pictures.gallery(probes, triggers, stages.reports, stages.class_names),
            device_report=None if device_report is None else device_report.to_json(),
            warnings=tuple(stages.warnings),
        )
        save(folder.path, record)
        return record


def save(folder: Path, record: RunRecord) -> None:
    """Write run.json, then the reports rendered from it."""
    point("report.begin")
    write_json(folder / "run.json", record.to_json(), "run")
    report.write(folder, record)


def take_in(path: Path, record: RunRecord, device_report: DeviceReport) -> RunRecord:
    """The record with the rows that a board measured; gates and verdict are judged anew.

    Raises UsageError when the report was made from another bundle.
    """
    if device_report.manifest_sha256 != record.manifest_sha256:
        raise UsageError(
            f"The device report is of the bundle {device_report.manifest_sha256[:12]}…, this run made "
            f"{record.manifest_sha256[:12]}…. Copy this run's bundle to the board and measure again."
        )
    target = targets.get(record.target)
    measured = {(row.stage, row.runtime) for row in device_report.rows}
    rows = [row for row in record.rows if (row.stage, row.runtime) not in measured] + list(device_report.rows)
    known = bool(record.config["trigger"]["file"])
    renewed = dataclasses.replace(
        record,
        rows=tuple(rows),
        gates=ledger.gates(GateSection.model_validate(record.config["gates"]), rows, target),
        verdict=ledger.verdict(rows, target, record.canaries),
        not_tested=ledger.not_tested(rows, target, known=known, canaries=record.canaries is not None),
        device_report=device_report.to_json(),
    )
    save(path, renewed)
    return renewed
