"""What a board measured joins the ledger: only rows about this run's own files, judged by this run's own floors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import report, targets
from ..config import GateSection
from ..errors import UsageError
from ..files import point, read_json, write_json
from ..given import shortened
from ..types import DeviceReport, RunRecord, StageRow, Target, TriggerScore
from . import ledger, validity

BOARD = "device-report.json"
DOUBT = "Measurement not valid: "
RUNTIMES = frozenset(target.runtime for target in targets.TARGETS.values())


def save(folder: Path, record: RunRecord) -> None:
    """Write run.json, then the reports rendered from it, as `edgekd report` would."""
    point("report.begin")
    file = write_json(folder / "run.json", record.to_json(), "run")
    report.write(folder, RunRecord.from_json(read_json(file)))


def judgement(
    rows: list[StageRow],
    target: Target,
    limits: GateSection,
    canaries: dict[str, Any] | None,
    device_report: DeviceReport | None,
    *,
    known: bool,
    attacked: bool,
) -> dict[str, Any]:
    """What follows from the ledger; fields of a RunRecord."""
    target = _with_its_stand_in(rows, target, device_report)
    doubted = validity.doubts(device_report, ledger.shipped_row(rows, target))
    return {
        "rows": tuple(rows),
        "gates": ledger.gates(limits, rows, target, canaries=canaries, doubted=doubted),
        "verdict": ledger.verdict(rows, target, canaries=canaries, doubted=doubted),
        "not_tested": ledger.not_tested(rows, target, known=known, canaries=canaries is not None, attacked=attacked),
        "device_report": None if device_report is None else device_report.to_json(),
    }


def _with_its_stand_in(rows: Sequence[StageRow], target: Target, device_report: DeviceReport | None) -> Target:
    """The target, shipping what its runtime runs in the place of a file made for another version, as TensorRT 11 does."""
    stage = None if device_report is None else device_report.stage
    alike = {(row.stage, row.runtime, row.precision) for row in rows if row.kind == "stage"}
    stands = stage in target.files and (stage, target.runtime, target.precision) in alike
    return dataclasses.replace(target, ships=stage) if stage is not None and stands else target


def warnings(device_report: DeviceReport | None) -> tuple[str, ...]:
    """Why what a device measured cannot be relied on."""
    return () if device_report is None else tuple(DOUBT + reason for reason in device_report.invalid_reasons)


def take_in(path: Path, record: RunRecord, device_report: DeviceReport) -> RunRecord:
    """The record with the rows that a board measured; gates and verdict are judged anew.

    Raises UsageError when the report was made from another bundle, or holds a row about anything but a file of this
    run's bundle as a board's runtime ran it.
    """
    if device_report.manifest_sha256 != record.manifest_sha256:
        raise UsageError(
            f"The device report is of the bundle {device_report.manifest_sha256[:12]}…, but this run made "
            f"{record.manifest_sha256[:12]}…. Copy this run's bundle to the board and measure again."
        )
    target = targets.get(record.target)
    try:
        judged = judgement(
            [*_kept(record, device_report, target), *_admitted(record, device_report)],
            target,
            GateSection.model_validate(record.config["gates"]),
            record.canaries,
            device_report,
            known=bool(record.config["trigger"]["file"]),
            attacked=bool(record.adversarial),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # run.json may be anybody's
        raise UsageError(f"The run's record does not hold what it should ({shortened(str(error))}).") from error
    others = (text for text in record.warnings if not text.startswith(DOUBT))
    renewed = dataclasses.replace(record, **judged, warnings=(*others, *warnings(device_report)))
    save(path, renewed)
    # last: what is read in again by the next compress must have gone through all of the above
    write_json(path / BOARD, device_report.to_json(), "board")
    return renewed


def with_board(path: Path, record: RunRecord) -> RunRecord:
    """The record with what a board measured of this very bundle, if that was read in before."""
    if not (path / BOARD).exists():
        return record
    try:
        device_report = DeviceReport.from_json(read_json(path / BOARD))
        same = device_report.manifest_sha256 == record.manifest_sha256
        return take_in(path, record, device_report) if same else record
    except UsageError as error:
        raise UsageError(f"{error} It was read from {path / BOARD}. Delete that file and run again.") from None


def _kept(record: RunRecord, device_report: DeviceReport, target: Target) -> list[StageRow]:
    """The record's rows that the report does not measure again.

    What the last report held against the file that ships goes with that report: such figures would count from now on.
    """
    before = None if record.device_report is None else DeviceReport.from_json(record.device_report)
    shipped = ledger.shipped_row(record.rows, _with_its_stand_in(record.rows, target, before))
    doubted = validity.doubts(before, shipped)
    measured = {(row.stage, row.runtime) for row in device_report.rows}
    return [
        validity.without(row, doubted) if row is shipped else row
        for row in record.rows
        if (row.stage, row.runtime) not in measured
    ]


def _admitted(record: RunRecord, device_report: DeviceReport) -> list[StageRow]:
    """The report's rows; what the run itself knows better (floors, origins) is taken from the record.

    Label flips too, where the board did not count them and the host did by the same runtime.
    """
    known = {score.trigger: score for row in record.rows if row.runtime == "torch" for score in row.triggers}
    files = {(file.get("path"), file.get("sha256")) for file in record.onnx}
    flips = {(row.sha256, row.runtime): row.flips for row in record.rows}
    precisions = {row.stage: row.precision for row in record.rows if row.kind == "stage"}
    seen: set[tuple[str, str]] = set()
    rows = []
    for row in device_report.rows:
        why = _unfit(row, files, known)
        if why is None and row.precision != precisions.get(row.stage, row.precision):
            why = f"does not have the precision of that file, {precisions[row.stage]}"
        if why is None and (row.stage, row.runtime) in seen:
            why = "appears twice"
        if why is not None:
            raise UsageError(
                f"The device report's row {shortened(row.stage)} ({shortened(row.runtime)}, sha256 {shortened(row.sha256[:12])}) "
                f"{why}. Measure this run's bundle with `edgekd-device run` and read its report in unchanged."
            )
        seen.add((row.stage, row.runtime))
        scores = tuple(
            dataclasses.replace(score, floor=known[score.trigger].floor, origin=known[score.trigger].origin)
            for score in row.triggers
        )
        counted = row.flips if row.flips is not None else flips.get((row.sha256, row.runtime))
        rows.append(dataclasses.replace(row, triggers=scores, flips=counted))
    return rows


def _unfit(row: StageRow, files: set[tuple[Any, Any]], known: Mapping[str, TriggerScore]) -> str | None:
    """Why a row cannot be what a board measured of this run's bundle; None where it can."""
    if (row.stage, row.sha256) not in files or row.kind != "stage":
        return "is not about a file of this run's bundle"
    if row.runtime not in RUNTIMES:
        return f"was not measured by a board's runtime ({', '.join(sorted(RUNTIMES))})"
    if sorted(score.trigger for score in row.triggers) != sorted(known):
        return "has other triggers than this run's bundle"
    return None
