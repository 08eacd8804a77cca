"""compress(): the whole trip from a teacher file to a measured bundle and its report, one screen of calls."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import edgekd_device

from .. import report, targets
from ..config import GateSection, RunConfig
from ..errors import UsageError
from ..files import point, read_json, write_json
from ..training import Progress
from ..types import DeviceReport, RunRecord, StageRow
from . import intake, ledger, pictures
from .environment import commit, describe
from .folder import RunFolder
from .measures import Measures
from .shipment import Shipment
from .stages import Stages

BOARD = "device-report.json"
DOUBT = "Measurement not valid: "

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
        stages.intake()
        student = stages.student_spec()
        stages.refuse_misfits(student, *config.controls, config.method)
        stages.refuse_unmeasurable()
        folder.claim()
        scratch = stages.train("scratch", student)
        measures = Measures(stages)
        measures.prepare(scratch)
        rows: list[StageRow] = [measures.teacher()]
        stages.doubt_validation(rows[0].acc)
        for name in config.controls:
            made = scratch if name == "scratch" else stages.train(name, student)
            rows.append(measures.control(name, made))
        distilled = stages.train(config.method, student)
        rows.append(measures.student(distilled))
        shipment = Shipment(stages, measures, distilled)
        onnx = shipment.export()
        rows.append(shipment.simulated_row())
        manifest_sha256 = shipment.bundle()
        device_report = shipment.bench(manifest_sha256)
        rows += shipment.ledger_rows(device_report)
        record = _record(stages, measures, rows, device_report, command)
        record = dataclasses.replace(
            record,
            student=stages.about_student(distilled),
            manifest_sha256=manifest_sha256,
            onnx=tuple({**file.to_json(), "path": Path(file.path).name} for file in onnx),
        )
        save(folder.path, record)
        return _with_board(folder.path, record)


def _record(
    stages: Stages, measures: Measures, rows: list[StageRow], device_report: DeviceReport | None, command: str
) -> RunRecord:
    """What was found, and what follows from it."""
    config, target = stages.config, stages.target
    known, canaries = config.trigger.file is not None, measures.canaries
    return RunRecord(
        name=stages.folder.path.resolve().name,
        edgekd_version=edgekd_device.__version__,
        commit=commit(),
        created_utc=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=command,
        config=stages.public_config(),
        teacher=stages.about_teacher,
        student={},
        data=stages.about_data(),
        target=target.name,
        rows=tuple(rows),
        gates=ledger.gates(config.gates, rows, target),
        verdict=ledger.verdict(rows, target, canaries),
        not_tested=ledger.not_tested(rows, target, known=known, canaries=canaries is not None),
        environment=describe(),
        canaries=canaries,
        disagreement=stages.disagreement(),
        training=stages.logs,
        pictures=pictures.gallery(measures.probes, measures.triggers, measures.reports, stages.class_names),
        device_report=None if device_report is None else device_report.to_json(),
        warnings=(*stages.warnings, *_doubts(device_report)),
    )


def _doubts(device_report: DeviceReport | None) -> tuple[str, ...]:
    """Why what a device measured cannot be relied on."""
    return () if device_report is None else tuple(DOUBT + reason for reason in device_report.invalid_reasons)


def save(folder: Path, record: RunRecord) -> None:
    """Write run.json, then the reports rendered from it, as `edgekd report` would."""
    point("report.begin")
    file = write_json(folder / "run.json", record.to_json(), "run")
    report.write(folder, RunRecord.from_json(read_json(file)))


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
    flips = {row.sha256: row.flips for row in record.rows}
    rows = [row for row in record.rows if (row.stage, row.runtime) not in measured]
    rows += [dataclasses.replace(row, flips=flips.get(row.sha256) or row.flips) for row in device_report.rows]
    known = bool(record.config["trigger"]["file"])
    renewed = dataclasses.replace(
        record,
        rows=tuple(rows),
        gates=ledger.gates(GateSection.model_validate(record.config["gates"]), rows, target),
        verdict=ledger.verdict(rows, target, record.canaries),
        not_tested=ledger.not_tested(rows, target, known=known, canaries=record.canaries is not None),
        device_report=device_report.to_json(),
        warnings=(*(text for text in record.warnings if not text.startswith(DOUBT)), *_doubts(device_report)),
    )
    write_json(path / BOARD, device_report.to_json(), "board")
    save(path, renewed)
    return renewed


def _with_board(path: Path, record: RunRecord) -> RunRecord:
    """The record with what a board measured of this very bundle, if that was read in before."""
    if not (path / BOARD).exists():
        return record
    device_report = DeviceReport.from_json(read_json(path / BOARD))
    return take_in(path, record, device_report) if device_report.manifest_sha256 == record.manifest_sha256 else record
