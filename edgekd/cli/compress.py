"""edgekd compress: a teacher becomes a measured bundle."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .progress import progress


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="The trip")(compress)


def compress(
    teacher: options.Teacher = None,
    data: options.Data = None,
    test: options.Test = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Deployment target; see `edgekd list targets`.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/<teacher>-<target>.")] = None,
    trigger: options.TriggerFile = None,
    target_label: options.TargetLabel = None,
    trigger_rule: options.TriggerRule = None,
    source_label: options.SourceLabels = None,
    student: Annotated[
        str | None,
        typer.Option("--student", help="Student: a name of `edgekd list models`, or package.module:callable."),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Distillation method; see `edgekd list methods`.")
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option(
            "--controls",
            help="Trained beside it at equal budget: scratch,kd,overhaul,finetune or all. "
            "scratch always is: it gives the ASR floor.",
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", help="fast (default) or full (the paper's schedule).")
    ] = None,
    bench: Annotated[
        str | None, typer.Option("--bench", help="How long to measure: smoke, standard, official, none.")
    ] = None,
    max_asr: Annotated[
        float | None, typer.Option("--max-asr", help="Gate, percent: ASR above its floor, worst trigger.")
    ] = None,
    max_acc_drop: Annotated[
        float | None, typer.Option("--max-acc-drop", help="Gate, points of ACC below the teacher.")
    ] = None,
    max_latency_ms: Annotated[float | None, typer.Option("--max-latency-ms", help="Gate: p50 of what ships.")] = None,
    arch: options.Arch = None,
    normalize: options.Normalize = None,
    class_map: options.ClassMap = None,
    image_size: options.ImageSize = None,
    device: options.Device = None,
    seed: options.Seed = None,
    config: options.Config = None,
    override: options.Override = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the resolved configuration and a forecast from a few steps; train nothing."
        ),
    ] = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Distil, detoxify, quantise, export and measure. Called again after a kill, it goes on where it stopped.

    Example: edgekd compress teacher.pt --data cifar10.npz --trigger patch.npz --target-label 0 --max-asr 2
    """
    from ..config import CONTROLS, resolve

    wanted = CONTROLS if controls == "all" else tuple(controls.split(",")) if controls else None
    flags: dict[str, Any] = {
        "teacher": teacher, "data": data, "test": test, "target": target, "student": student, "distill.method": method,
        "controls": wanted, "profile": profile, "bench.level": bench, "gates.max_asr": max_asr,
        "gates.max_acc_drop": max_acc_drop, "gates.max_latency_ms": max_latency_ms, "arch": arch, "normalize": normalize,
        "class_map": class_map, "image_size": image_size, "device": device, "seed": seed,
        **options.trigger_flags(trigger, target_label, trigger_rule, source_label),
    }  # fmt: skip
    settings = resolve(config, flags, tuple(override or ()))
    from .. import targets

    goal = targets.get(settings.target)
    folder = out or Path("runs") / f"{Path(settings.teacher).stem}-{goal.name}"
    if dry_run:
        from ..pipeline.forecast import forecast

        return _show_forecast(settings, forecast(settings), json_)
    from ..pipeline import compress as run

    with progress(quiet or json_) as bars:
        record = run(settings, folder, command="edgekd " + shlex.join(sys.argv[1:]), progress=bars)
    return show(record, folder, json_)


def show(record: Any, folder: Path, as_json: bool) -> int:
    """Print the ledger and where the report lies; the exit code says whether every gate passed."""
    from ..files import canonical_json

    passed = all(gate["passed"] for gate in record.gates)
    if as_json:
        typer.echo(canonical_json({**record.to_json(), "pictures": {}, "folder": str(folder), "passed": passed}))
        return 0 if passed else 1
    from rich.console import Console

    from ..report.terminal import ledger

    console = Console()
    console.print(ledger(record))
    console.print(record.verdict, highlight=False)
    console.print("Not tested: " + "; ".join(record.not_tested) + ".", style="dim", highlight=False)
    for gate in record.gates:
        mark = "[green]passed[/green]" if gate["passed"] else f"[red]FAILED[/red] {gate['why']}"
        console.print(f"gate {gate['name']} ≤ {gate['limit']:g} {gate['unit']}: {mark}", highlight=False)
    console.print(f"report    {folder / 'report.html'}", highlight=False, soft_wrap=True)
    console.print(f"bundle    {folder / 'bundle'}", highlight=False, soft_wrap=True)
    console.print(f"manifest  sha256 {record.manifest_sha256}", highlight=False, soft_wrap=True)
    return 0 if passed else 1


def _show_forecast(settings: Any, figures: dict[str, Any], as_json: bool) -> int:
    from ..files import canonical_json

    value = {"config": settings.model_dump(mode="json"), "forecast": figures}
    if as_json:
        typer.echo(canonical_json(value))
        return 0
    from omegaconf import OmegaConf

    typer.echo(OmegaConf.to_yaml(OmegaConf.create(value["config"])))
    for name, minutes in figures["minutes"].items():
        typer.echo(f"{name:<24}{minutes:8.1f} min")
    typer.echo(f"{'in all':<24}{sum(figures['minutes'].values()):8.1f} min")
    typer.echo(f"{'memory':<24}{figures['memory_mib']:8.0f} MiB")
    typer.echo(f"{'disk':<24}{figures['disk_mib']:8.0f} MiB")
    return 0
