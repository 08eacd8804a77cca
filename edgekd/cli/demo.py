"""edgekd demo: the whole pipeline in two minutes, on a teacher that is backdoored before your eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .progress import progress


def register(app: typer.Typer) -> None:
    examples = options.examples("edgekd demo", "edgekd demo --out /tmp/demo -o train.epochs=4")
    app.command(rich_help_panel="Workflow", epilog=examples)(demo)


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Run folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of every random choice.")] = 0,
    override: options.Override = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """See it in two minutes: backdoor a teacher before your eyes, then make a small clean student from it.

    The teacher learns digits and a trigger; the student is distilled on images of which 5 % carry it.
    Controls are trained for comparison: a student without a teacher, one distilled plainly from the teacher's outputs,
    which takes the backdoor over, and one from its features, the base of the method that ships.
    """
    from ..config import resolve
    from ..files import lock
    from ..pipeline import RunFolder
    from ..pipeline import compress as run
    from ..pipeline.demo import OVERRIDES, TARGET_LABEL, places, prepare
    from .compress import as_typed, show

    inputs = out / "inputs"
    paths = {setting: str(path) for setting, path in places(inputs).items()}
    flags = {**paths, "trigger.target_label": TARGET_LABEL, "controls": ("scratch", "kd", "overhaul"), "seed": seed}
    settings = resolve(None, flags, (*OVERRIDES, *(override or ())))
    RunFolder(out).reserve(settings)  # a folder of somebody else's is refused before a teacher is trained into it
    with progress(quiet or json_) as bars:
        with lock(inputs):
            prepare(inputs, seed, bars)
        record = run(settings, out, command=as_typed(context), progress=bars)
    return show(record, out, json_)
