"""edgekd report: render a run again, or take in what a board measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="The trip")(report)


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    device_report: Annotated[
        Path | None,
        typer.Option(
            "--device-report", help="What `edgekd-device run` wrote on the board; judged with the run's gates."
        ),
    ] = None,
    json_: options.Json = False,
) -> int:
    """Write report.html and report.md from run.json; exit 1 when a gate fails."""
    from ..files import lock, read_json
    from ..types import DeviceReport, RunRecord
    from .compress import show

    record = RunRecord.from_json(read_json(run / "run.json"))
    with lock(run):
        if device_report is not None:
            from ..pipeline import take_in

            record = take_in(run, record, DeviceReport.from_json(read_json(device_report)))
        else:
            from ..report import write

            write(run, record)
    return show(record, run, json_)
