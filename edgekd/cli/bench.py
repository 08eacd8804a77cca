"""edgekd bench: run a bundle here, with the code that runs it on the board."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import options, screen
from .progress import progress


def register(app: typer.Typer) -> None:
    examples = options.examples(
        "edgekd bench runs/demo", "edgekd bench bundle --level standard --out device-report.json"
    )
    app.command(rich_help_panel="Workflow", epilog=examples)(bench)


def bench(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or a run folder that holds one.")],
    level: Annotated[
        str,
        typer.Option(
            "--level",
            metavar="LEVEL",
            help="smoke (seconds), standard (minutes), official (half an hour a file, or more).",
        ),
    ] = "smoke",
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            metavar="NAME",
            help="onnxruntime, tensorrt or null; default: the one that the bundle was made for.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", help="Threads of the runtime; default: the target's.")
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="NAME", help="Measure this model file only; may be repeated."),
    ] = None,
    cuda_graph: Annotated[
        bool,
        typer.Option("--cuda-graph", metavar="", help="tensorrt: launch each inference as one recorded CUDA graph."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the device report (JSON) here, and the raw times beside it."),
    ] = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure ACC, ASR and latency of every model file in a bundle, in one session each, on the same bytes.

    The same code runs on the board as `python3 edgekd-device.pyz run BUNDLE`. Exit code 1 if the measurement is not
    valid: a gate on the machine failed, or ACC or ASR differ from the host's.
    """
    from edgekd_device import gates, harness, raw

    from ..files import write_json

    place = bundle / "bundle" if (bundle / "bundle" / "manifest.json").exists() else bundle
    with progress(quiet or json_) as bars:
        times = None if out is None else raw.beside(out)
        report = harness.run(
            place,
            level=level,
            runtime=runtime,
            files=file,
            threads=threads,
            cuda_graph=cuda_graph,
            progress=bars,
            times=times,
        )
    if out is not None:
        write_json(out, report.to_json(), "device-report")
    if json_:
        screen.print_json(report.to_json())
    else:
        from ..report.commands import device_table

        screen.console().print(device_table(report))
    sys.stdout.flush()  # before the reasons, which go to standard error
    gates.refuse_invalid(report)
