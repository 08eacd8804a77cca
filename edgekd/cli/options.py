"""Options that several commands share, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Teacher = Annotated[
    str | None,
    typer.Argument(metavar="TEACHER", help="Teacher file: a state dict (.pt .pth .th .tar), .safetensors or .onnx."),
]
Data = Annotated[
    str | None,
    typer.Option("--data", help="Training images: a folder with one sub-folder per class, .npz, or the CIFAR release."),
]
Test = Annotated[
    str | None,
    typer.Option("--test", help="Test images; without them a seeded split 80/10/10 of --data is used."),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help="Teacher's architecture, if not recognised: a name of `edgekd list models`, or "
        "package.module:callable, which runs that code.",
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        "--normalize", help="Teacher's input normalisation: auto, a preset, or mean/std as in 0.5,0.5,0.5/0.2,0.2,0.2."
    ),
]
ClassMap = Annotated[
    str | None, typer.Option("--class-map", help="YAML `class: label`, where the data's label order differs.")
]
ImageSize = Annotated[int | None, typer.Option("--image-size", help="Bring folder images to this side in pixels.")]
TriggerFile = Annotated[
    str | None,
    typer.Option(
        "--trigger",
        help="A known trigger: .npz with a and b for clip(a*x+b), a PNG patch, or a YAML list. "
        "Without one the canary battery runs.",
    ),
]
TargetLabel = Annotated[int | None, typer.Option("--target-label", help="Label that the trigger is meant to cause.")]
TriggerRule = Annotated[
    str | None,
    typer.Option("--trigger-rule", help="all-to-one, all-to-all (label + 1), or source (see --source-label)."),
]
SourceLabels = Annotated[
    list[int] | None, typer.Option("--source-label", help="Label that a source-specific trigger acts on; repeatable.")
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or auto.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Every random choice derives from it.")]
Config = Annotated[Path | None, typer.Option("-c", "--config", help="YAML file with the same keys as -o.")]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "-o", "--override", metavar="KEY=VALUE", help="Any setting, e.g. -o train.epochs=20 -o distill.temperature=4."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress bars.")]


def trigger_flags(
    trigger: str | None, target_label: int | None, rule: str | None, source_labels: list[int] | None
) -> dict[str, object]:
    """The trigger's options as dotted settings; None where not given."""
    return {
        "trigger.file": trigger,
        "trigger.target_label": target_label,
        "trigger.rule": rule,
        "trigger.source_labels": tuple(source_labels) if source_labels else None,
    }
