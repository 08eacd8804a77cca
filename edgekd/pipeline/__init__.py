"""compress(): the whole trip from a teacher file to a measured bundle and its report, one screen of calls.

The trip: ``intake`` reads, ``stages`` trains (``without_data``: from a source), ``measures`` and ``adversarial`` measure,
``quantised`` and ``shipment`` quantise, export and bench, ``board`` takes in what a board says. The judgement: ``suspects``, ``validity`` and
``vetting`` say what counts, ``ledger`` and ``audited`` what follows. The run's folder: ``folder``, ``mark``. --dry-run:
``forecast``, ``passes``, ``unmeetable``. Other commands: ``single``, ``attack``, ``demo``.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import edgekd_device

from .. import targets
from ..config import RunConfig, public
from ..training import Progress
from ..types import DeviceReport, RunRecord, StageRow
from . import board, intake, pictures, vetting
from .adversarial import under_attack
from .board import take_in
from .environment import commit, describe
from .folder import RunFolder
from .measures import Measures
from .shipment import Shipment
from .suspects import UNATTACKED
from .without_data import stages_of

__all__ = ["RunFolder", "compress", "take_in"]


def compress(config: RunConfig, out: str | Path, *, command: str = "", progress: Progress | None = None) -> RunRecord:
    """Distil, quantise, export and measure; everything lands in the run folder ``out``.

    A run that was killed goes on where it stood when called again with the same configuration. Returns the record that
    ``run.json``, ``report.html`` and ``report.md`` are written from. Raises EdgekdError and its kin for what a user can
    mend; gates are in the record and are the caller's to act on.
    """
    vetting.refuse_unaudited(config, audits=vetting.runs_battery(config))
    with RunFolder(out).open(config) as folder:
        target = targets.get(config.target)
        parts = intake.load_data(config)
        stages = stages_of(config)(config, folder, parts, target, progress)
        stages.intake()
        student = stages.student_spec()
        stages.refuse_misfits(student, *config.controls, config.method)
        stages.refuse_unmeasurable()
        folder.claim()
        unattacked = stages.unattacked(student)
        measures = Measures(stages)
        measures.prepare(unattacked)
        rows: list[StageRow] = [measures.teacher()]
        stages.doubt_validation(rows[0].acc)
        if unattacked is not None:
            measures.teaching(unattacked)
        repaired = stages.repair()
        if repaired is not None:
            rows.append(measures.repaired(repaired))
        vetted = measures.vetted(repaired)
        for name in stages.controls:
            made = unattacked if name in UNATTACKED and unattacked is not None else stages.train(name, student)
            rows.append(measures.control(name, made))
        distilled = stages.train_student(student, repaired, vetted)
        rows.append(measures.student(distilled))
        shipment = Shipment(stages, measures, distilled)
        shipment.export()
        rows.append(shipment.simulated_row())
        manifest_sha256 = shipment.bundle()
        attacked = under_attack(stages, distilled, target)
        device_report = shipment.bench(manifest_sha256)
        rows += shipment.ledger_rows(device_report)
        record = _record(shipment, rows, attacked, manifest_sha256, device_report, command)
        board.save(folder.path, record)
        return board.with_board(folder.path, record)


def _record(
    shipment: Shipment,
    rows: list[StageRow],
    attacked: tuple[dict[str, Any], ...],
    manifest_sha256: str,
    device_report: DeviceReport | None,
    command: str,
) -> RunRecord:
    """What was found, and what follows from it."""
    stages, measures = shipment.stages, shipment.measures
    config, target = stages.config, stages.target
    known, canaries = config.trigger.file is not None, measures.canaries
    return RunRecord(
        name=stages.folder.path.resolve().name,
        edgekd_version=edgekd_device.__version__,
        commit=commit(),
        created_utc=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=command,
        config=public(config),
        teacher=stages.about_teacher,
        student=stages.about_student(shipment.student),
        data=stages.about_data(),
        target=target.name,
        adversarial=attacked,
        **board.judgement(rows, target, config.gates, canaries, device_report, known=known, attacked=bool(attacked)),
        manifest_sha256=manifest_sha256,
        onnx=tuple({**file.to_json(), "path": Path(file.path).name} for file in shipment.files),
        environment=describe(),
        canaries=canaries,
        teaching=measures.taught,
        classes=measures.by_class(),
        disagreement=stages.disagreement(),
        training=stages.logs,
        pictures=pictures.gallery(measures.probes, measures.triggers, measures.reports, stages.class_names),
        warnings=(*stages.warnings, *stages.folder.mixed(), *board.warnings(device_report)),
    )
