"""edgekd export: a student becomes ONNX files and a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options, screen
from .progress import progress


def register(app: typer.Typer) -> None:
    examples = options.examples(
        "edgekd export runs/mine/student.safetensors --data images/train --test images/test --out bundle",
        "edgekd export student.pt --arch wrn-16-1 --normalize cifar10 --data cifar10.npz --target jetson",
    )
    app.command(rich_help_panel="Single steps", epilog=examples)(export)


def export(
    student: Annotated[
        str | None,
        typer.Argument(metavar="STUDENT", help="A trained network: student.safetensors, or another checkpoint."),
    ] = None,
    data: options.Data = None,
    test: options.Test = None,
    target: options.Target = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Bundle folder to write.")] = Path("bundle"),
    trigger: options.ExportedTrigger = None,
    target_label: options.TargetLabel = None,
    trigger_rule: options.TriggerRule = None,
    source_label: options.SourceLabels = None,
    trigger_position: options.Position = None,
    trigger_opacity: options.Opacity = None,
    arch: options.Arch = None,
    normalize: options.Normalize = None,
    num_classes: options.NumClasses = None,
    class_map: options.ClassMap = None,
    image_size: options.ImageSize = None,
    channels: options.Channels = None,
    seed: options.Seed = None,
    config: options.Config = None,
    override: options.Override = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Quantise a trained network to INT8, export every ONNX file that the target asks for, and write the bundle.

    Scales come from the training images of --data; random calibration images are refused.
    """
    from ..config import resolve
    from ..pipeline.one_stage import export_only
    from ..report import commands
    from ..types import StageRow

    flags = {
        "teacher": student, "data": data, "test": test, "target": target, "arch": arch, "normalize": normalize,
        "class_map": class_map, "num_classes": num_classes, "image_size": image_size, "channels": channels, "seed": seed,
        **options.trigger_flags(trigger, target_label, trigger_rule, source_label, trigger_position, trigger_opacity),
    }  # fmt: skip
    settings = resolve(config, flags, tuple(override or ()))
    screen.explain_target(settings.target)
    with progress(quiet or json_) as bars:
        result = export_only(settings, out, bars)
    package = screen.package_sha256(Path(result["bundle"]), result["manifest_sha256"])
    if json_:
        screen.print_json({**result, "package_sha256": package})
        return
    for file in result["onnx"]:
        agreement = file["top1_agreement"]
        typer.echo(
            f"{file['path']:<22} {file['bytes']:>12,} bytes  opset {file['opset']}  "
            f"same label as torch on {agreement['hits']}/{agreement['total']} images"
        )
    for row in map(StageRow.from_json, result["measured"]):
        asr = "".join(f", ASR of {found.trigger} {commands.rate(found.asr)}" for found in row.triggers)
        typer.echo(f"{row.stage:<22} ACC {commands.rate(row.acc)}, label flips {commands.rate(row.flips)}{asr}")
    for warning in result["warnings"]:
        typer.echo(f"warning: {warning}")
    typer.echo(
        f"bundle    {result['bundle']}\nmanifest  sha256 {result['manifest_sha256']}\npackage   sha256 {package}"
    )
