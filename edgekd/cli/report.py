"""edgekd report: render a run again, or take in what a board measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from . import options

Record = TypeVar("Record")


def register(app: typer.Typer) -> None:
    examples = options.examples("edgekd report runs/mine", "edgekd report runs/mine --device-report device-report.json")
    app.command(rich_help_panel="Workflow", epilog=examples)(report)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that `edgekd compress` finished.")],
    device_report: Annotated[
        Path | None,
        typer.Option(
            "--device-report",
            metavar="FILE",
            help="What `edgekd-device run` wrote on the board. It joins the ledger and is judged by the run's gates.",
        ),
    ] = None,
    json_: options.Json = False,
) -> int:
    """Write report.html and report.md from run.json; exit 1 when a gate fails."""
    from ..files import lock
    from ..types import DeviceReport, RunRecord
    from .compress import show

    record = _read(run / "run.json", RunRecord.from_json, "`edgekd compress` has not finished a run there.")
    with lock(run):
        if device_report is not None:
            from ..pipeline import take_in

            measured = _read(
                device_report, DeviceReport.from_json, "Give the JSON file that `edgekd-device run` wrote."
            )
            record = take_in(run, record, measured)
        else:
            from ..report import write

            write(run, record)
    return show(record, run, json_)


def _read(file: Path, parse: Callable[[Any], Record], way_out: str) -> Record:
    """A record from a JSON file that may be anybody's; UsageError where it is none."""
    from ..errors import UsageError
    from ..files import read_json

    try:
        return parse(read_json(file))
    except UsageError as error:
        raise UsageError(f"{error} {way_out}") from None
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UsageError(f"{file} does not hold what it should ({type(error).__name__}: {error}). {way_out}") from None
