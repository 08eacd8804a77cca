"""edgekd convert: any accepted checkpoint becomes safetensors with a JSON sidecar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options, screen


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Tools", epilog=options.examples("edgekd convert model.pth model.safetensors"))(convert)


def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A checkpoint of unknown origin.")],
    destination: Annotated[Path, typer.Argument(metavar="DESTINATION", help="The .safetensors file to write.")],
    json_: options.Json = False,
) -> None:
    """Read a checkpoint safely and write it as safetensors, with a JSON file beside it that records what was found.

    Nothing in the file is executed: a restricted reader parses it in a child process.
    """
    from .. import checkpoints
    from ..files import read_json

    written = checkpoints.convert(source, destination)
    sidecar = checkpoints.sidecar_of(written)
    if json_:
        screen.print_json(read_json(sidecar))
    else:
        typer.echo(f"wrote {written} and {sidecar.name}")
