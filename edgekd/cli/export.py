"""edgekd export: a student becomes ONNX files and a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .progress import progress


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Single steps")(export)


def export(
    student: Annotated[str, typer.Argument(help="A trained network: student.safetensors, or another checkpoint.")],
    data: options.Data = None,
    test: options.Test = None,
    target: Annotated[str | None, typer.Option("--target", help="See `edgekd list targets`.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Bundle directory to write.")] = Path("bundle"),
    trigger: options.TriggerFile = None,
    target_label: options.TargetLabel = None,
    trigger_rule: options.TriggerRule = None,
    source_label: options.SourceLabels = None,
    arch: options.Arch = None,
    class_map: options.ClassMap = None,
    image_size: options.ImageSize = None,
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
    from ..files import canonical_json
    from ..pipeline.single import export_only

    flags = {
        "teacher": student, "data": data, "test": test, "target": target, "arch": arch, "class_map": class_map,
        "image_size": image_size, "seed": seed,
        **options.trigger_flags(trigger, target_label, trigger_rule, source_label),
    }  # fmt: skip
    with progress(quiet or json_) as bars:
        result = export_only(resolve(config, flags, tuple(override or ())), out, bars)
    if json_:
        typer.echo(canonical_json(result))
        return
    for file in result["onnx"]:
        agreement = file["top1_agreement"]
        typer.echo(
            f"{file['path']:<22} {file['bytes']:>12,} bytes  opset {file['opset']}  "
            f"same label as torch on {agreement['hits']}/{agreement['total']} images"
        )
    typer.echo(f"bundle    {result['bundle']}\nmanifest  sha256 {result['manifest_sha256']}")
