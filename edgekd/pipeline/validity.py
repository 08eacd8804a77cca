"""What a device says against its own measurements, and which figures of one file that takes away."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from edgekd_device import environment

from ..types import DeviceReport, StageRow

TIMED = ("MultiStream: ", "GPU alone: ")  # what reasons of times begin with
UNSAID = "the device says that its report is not valid, but not why"


class Doubts(NamedTuple):
    """Why figures of a file do not count; empty where the device stands by them."""

    answers: tuple[str, ...] = ()  # its ACC and ASR
    times: tuple[str, ...] = ()  # its latency


def doubts(report: DeviceReport | None, row: StageRow | None) -> Doubts:
    """What the device holds against its own ``row``; warnings (a busy machine, clocks not pinned) are no doubts.

    Heat, swap and unsteady blocks spoil times alone. A file that answers wrongly is not the one that was to be timed, so
    what speaks against its answers speaks against its times. A reason that names another file of the report says nothing
    here; one that names nothing known counts against everything.
    """
    if row is None:
        return Doubts()
    answers: list[str] = []
    times: list[str] = []
    timed = () if row.latency is None else row.latency.notes
    if report is not None and _holds(report, row):
        machine, own = _of_the_machine(report), row.stage + ": "
        others = tuple(other.stage + ": " for other in report.rows if other.stage != row.stage)
        for reason in report.invalid_reasons:
            what = reason.removeprefix(own)
            if reason in machine or (what != reason and (what in timed or what.startswith(TIMED))):
                times.append(what)
            elif not reason.startswith(others):
                answers.append(what)
        if not report.valid and not report.invalid_reasons:
            answers.append(UNSAID)
    if row.latency is not None and not row.latency.valid:
        times += timed[:1] or ("the device says that its latency is not valid",)
    return Doubts(tuple(dict.fromkeys(answers)), tuple(dict.fromkeys(answers + times)))


def not_valid(reasons: tuple[str, ...]) -> str:
    """Why a value does not count, short enough to stand in a table."""
    more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return f"the measurement is not valid: {'; '.join(reasons[:3])}{more}"


def without(row: StageRow, doubted: Doubts) -> StageRow:
    """The row with "not measured" in place of what is doubted."""
    if doubted.answers:
        row = dataclasses.replace(row, acc=None, triggers=(), flips=None)
    return dataclasses.replace(row, latency=None) if doubted.times else row


def _holds(report: DeviceReport, row: StageRow) -> bool:
    return any((other.stage, other.runtime) == (row.stage, row.runtime) for other in report.rows)


def _of_the_machine(report: DeviceReport) -> set[str]:
    """Reasons that speak of the machine while it was timed, as the harness words them."""
    around = {key: report.environment.get(key) for key in ("l4t", "power_mode", "temperature_c")}
    faults = environment.faults(
        {"load": None, "clocks_pinned": None, "clocks": dict.fromkeys(("GPU", "CPU")), **around}
    )
    return {*faults, *(f"{gate.name}: {gate.found}" for gate in report.gates)}
