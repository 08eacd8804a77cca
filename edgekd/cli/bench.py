"""edgekd bench: run a bundle here, with the code that runs it on the board."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .progress import progress


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="The trip")(bench)


def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle directory, or a run folder that holds one.")],
    level: Annotated[
        str, typer.Option("--level", help="smoke (seconds), standard (minutes), official (hours).")
    ] = "smoke",
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="onnxruntime, null, …; default: what is here.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads of the runtime.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the device report (JSON) here.")] = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure ACC, ASR and latency of every model file in a bundle, in one session each, on the same bytes."""
    from edgekd_device import harness

    from ..files import canonical_json, write_json

    place = bundle / "bundle" if (bundle / "bundle" / "manifest.json").exists() else bundle
    with progress(quiet or json_) as bars:
        report = harness.run(place, level=level, runtime=runtime, threads=threads, progress=bars)
    if out is not None:
        write_json(out, report.to_json(), "device-report")
    if json_:
        typer.echo(canonical_json(report.to_json()))
        return
    from rich.console import Console

    from ..report.single import device_table

    Console().print(device_table(report))
