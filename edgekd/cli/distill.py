"""edgekd distill: teacher to student, and no further."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options, screen
from .progress import progress


def register(app: typer.Typer) -> None:
    examples = options.examples(
        "edgekd distill teacher.pt --data images/train --student resnet8",
        "edgekd distill teacher.onnx --data cifar10.npz --method kd -o distill.temperature=4",
    )
    app.command(rich_help_panel="Single steps", epilog=examples)(distill)


def distill(
    teacher: options.Teacher = None,
    data: options.Data = None,
    test: options.Test = None,
    method: options.Method = None,
    repair: options.Repair = None,
    student: options.Student = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Run folder; default runs/<teacher>-distill.")
    ] = None,
    arch: options.Arch = None,
    normalize: options.Normalize = None,
    num_classes: options.NumClasses = None,
    class_map: options.ClassMap = None,
    image_size: options.ImageSize = None,
    channels: options.Channels = None,
    profile: options.Profile = None,
    device: options.Device = None,
    seed: options.Seed = None,
    config: options.Config = None,
    override: options.Override = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Distil a teacher into a student and write it as safetensors; if it is killed, the same command continues it.

    Test images are never used: the ACC that is printed is on validation images. Nothing is audited or exported.
    """
    from ..config import resolve
    from ..pipeline.one_stage import distill_only

    flags = {
        "teacher": teacher, "data": data, "test": test, "distill.method": method, "repair.method": repair, "student": student, "profile": profile,
        "arch": arch, "normalize": normalize, "class_map": class_map, "num_classes": num_classes, "image_size": image_size, "channels": channels,
        "device": device, "seed": seed,
    }  # fmt: skip
    settings = resolve(config, flags, tuple(override or ()))
    folder = out or Path("runs") / f"{Path(settings.teacher).stem}-distill"
    with progress(quiet or json_) as bars:
        result = distill_only(settings, folder, bars)
    if json_:
        screen.print_json(result)
    else:
        rate = result["validation_acc"]
        typer.echo(
            f"wrote {result['student']}: {result['spec']['arch']}, "
            f"validation ACC {100 * rate['hits'] / rate['total']:.1f} % ({rate['hits']}/{rate['total']})"
        )
