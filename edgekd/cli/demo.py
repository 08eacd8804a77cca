"""edgekd demo: the whole trip in a minute, on a teacher that is backdoored before your eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .progress import progress


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="The trip")(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", help="Every random choice derives from it.")] = 0,
    override: options.Override = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Train a small backdoored teacher on digits, distil it over images of which 2 % carry the trigger, and measure.

    Plain distillation stands beside it as a control: there the backdoor comes through.
    """
    from ..config import resolve
    from ..pipeline import compress as run
    from ..pipeline.demo import OVERRIDES, TARGET_LABEL, prepare
    from .compress import show

    with progress(quiet or json_) as bars:
        paths = prepare(out / "inputs", seed, bars)
        flags = {**paths, "trigger.target_label": TARGET_LABEL, "controls": ("scratch", "kd"), "seed": seed}
        settings = resolve(None, flags, (*OVERRIDES, *(override or ())))
        record = run(settings, out, command="edgekd demo", progress=bars)
    return show(record, out, json_)
