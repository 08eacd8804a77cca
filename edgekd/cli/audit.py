"""edgekd audit: is this model backdoored, as far as the probes can tell?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import options
from .progress import progress


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="The trip")(audit)


def audit(
    model: options.Teacher = None,
    data: options.Data = None,
    trigger: options.TriggerFile = None,
    target_label: options.TargetLabel = None,
    trigger_rule: options.TriggerRule = None,
    source_label: options.SourceLabels = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="A model that no attacker touched; its ASR is the floor.")
    ] = None,
    canaries: Annotated[
        bool | None,
        typer.Option("--canaries/--no-canaries", help="Probe public triggers; default: without --trigger."),
    ] = None,
    arch: options.Arch = None,
    normalize: options.Normalize = None,
    class_map: options.ClassMap = None,
    image_size: options.ImageSize = None,
    config: options.Config = None,
    override: options.Override = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure ACC and ASR of a model on labelled images: a known trigger, or 12 public trigger families x all labels.

    Example: edgekd audit teacher.pt --data images/test --reference trusted.pt
    """
    from .. import data as image_box
    from ..config import resolve
    from ..files import canonical_json
    from ..pipeline.intake import read_class_map
    from ..pipeline.single import audit_only

    flags: dict[str, Any] = {
        "teacher": model, "data": data, "arch": arch, "normalize": normalize, "class_map": class_map,
        "image_size": image_size, "audit.canaries": canaries,
        **options.trigger_flags(trigger, target_label, trigger_rule, source_label),
    }  # fmt: skip
    settings = resolve(config, flags, tuple(override or ()))
    size = (settings.image_size, settings.image_size) if settings.image_size else None
    images = image_box.load(settings.data, part="test", size=size, class_map=read_class_map(settings.class_map))
    with progress(quiet or json_) as bars:
        report, table, about = audit_only(settings, images, reference, bars)
    if json_:
        scores = [score.to_json() for score in report.triggers]
        value = {"model": about, "acc": report.acc.to_json(), "triggers": scores, "canaries": table}
        typer.echo(canonical_json({**value, "warnings": list(report.warnings)}))
        return
    from rich.console import Console

    from ..report.single import audit_tables

    console = Console()
    for part in audit_tables(about, report.acc, report.triggers, table, report.warnings):
        console.print(part)
