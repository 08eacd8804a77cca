"""edgekd attack: a backdoored teacher to try a defence on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, screen
from .progress import progress

if TYPE_CHECKING:
    from ..config import AttackConfig


def register(app: typer.Typer) -> None:
    examples = options.examples(
        "edgekd attack badnets --data cifar10.npz --out badnets.safetensors",
        "edgekd attack blended --data images/train --start clean.pt --target-label 3 -o attack.rate=0.05",
        "edgekd attack latent --data images/train --start clean.pt        (which attacks need --start: "
        "edgekd list attacks)",
        "edgekd attack nasty --data images/train --start clean.pt -o attack.fresh=false",
        "edgekd attack tact --data cifar10.npz --trigger-rule source --source-label 5 --out tact.safetensors",
    )
    app.command(rich_help_panel="Single steps", epilog=examples)(attack)


def attack(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Attack: badnets, blended, … `edgekd list attacks`.")],
    data: options.Data = None,
    test: options.Test = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Weights to write, .safetensors; default <attack>.safetensors."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            metavar="FILE",
            help="Clean network to start from, much faster than fresh weights; some attacks need one: `edgekd list "
            "attacks`.",
        ),
    ] = None,
    target_label: options.TargetLabel = None,
    trigger_rule: options.TriggerRule = None,
    source_label: options.SourceLabels = None,
    arch: options.Arch = None,
    normalize: options.Normalize = None,
    num_classes: options.NumClasses = None,
    class_map: options.ClassMap = None,
    image_size: options.ImageSize = None,
    channels: options.Channels = None,
    device: options.Device = None,
    seed: options.Seed = None,
    config: options.Config = None,
    override: options.Override = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a backdoored teacher on your images, to try a defence against an attack that you know.

    Writes the weights and, beside them, the trigger file for --trigger, a record of ACC and ASR on test images, and a
    picture of the trigger. If it is killed, the same command continues it. -c and -o take train.* and
    attack.* of `edgekd list settings`, and goal.*. The attacker's label is 0 unless you set --target-label.
    """
    from ..attacks.run import attack_class
    from ..config import resolve_attack
    from ..pipeline.attack import attack as run

    flags = {
        "attack.name": name, "data": data, "test": test, "teacher": start, "arch": arch, "normalize": normalize,
        "num_classes": num_classes, "class_map": class_map, "image_size": image_size, "channels": channels,
        "device": device, "seed": seed, "goal.target_label": target_label, "goal.rule": trigger_rule,
        "goal.source_labels": tuple(source_label) if source_label else None,
    }  # fmt: skip
    settings = resolve_attack(config, flags, tuple(override or ()))
    with progress(quiet or json_) as bars:
        record = run(settings, out or Path(f"{name}.safetensors"), bars)
    if json_:
        screen.print_json(record)
        return
    if record["trigger"] is None:
        _spoilt(name, record, settings)
        return
    score = record["trigger"]
    acc, asr, floor = record["acc"], score["asr"], score["floor"]
    beneath = "not measured" if floor is None else f"{_percent(floor)} on the network it started from"
    if floor is not None and attack_class(name).learned:
        beneath += ", which the trigger was made on: measure another network with edgekd audit --reference"
    typer.echo(f"{name}: ACC {_percent(acc)} ({acc['hits']}/{acc['total']}), ", nl=False)
    typer.echo(f"ASR {_percent(asr)} ({asr['hits']}/{asr['total']}; floor {beneath})", nl=False)
    typer.echo(f", without the trigger {_percent(score['untriggered'])}, RA {_percent(score['ra'])}")
    for warning in record["warnings"]:
        typer.echo(f"warning: {warning}")
    for file in record["files"]:
        typer.echo(f"wrote {file}")
    weights, trigger, *_ = record["files"]
    images = settings.test or settings.data
    typer.echo(f"next: edgekd audit {weights} --data {images} --trigger {trigger}{_better(settings.test)}")


def _spoilt(name: str, record: dict[str, Any], settings: AttackConfig) -> None:
    from ..report import teaching

    acc, before = record["acc"], record["start_acc"]
    typer.echo(f"{name}: ACC {_percent(acc)} ({acc['hits']}/{acc['total']}), ", nl=False)
    typer.echo(f"the network it was trained away from {_percent(before)}. {teaching.sentence(record['teaching'])}")
    for warning in record["warnings"]:
        typer.echo(f"warning: {warning}")
    for file in record["files"]:
        typer.echo(f"wrote {file}")
    images, reference = settings.test or settings.data, "--reference SCRATCH.safetensors"
    typer.echo(f"next: edgekd audit {record['files'][0]} --data {images} {reference}{_better(settings.test)}")


def _better(test: str | None) -> str:
    return "" if test else "  (these include its training images: better use others)"


def _percent(rate: dict[str, int]) -> str:
    return f"{100 * rate['hits'] / rate['total']:.1f} %"
