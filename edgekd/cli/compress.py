"""edgekd compress: a teacher becomes a measured bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from . import options, screen
from .progress import progress

if TYPE_CHECKING:
    from ..config import RunConfig

# the path alone, or after an option that it is attached to: --data=/…, -o test=/…, -c/…, -o trigger={file: /…}
ABSOLUTE = re.compile(r"(-\w|.*?[=:\s\[{,'\"])??(/.*)", re.DOTALL)

EXAMPLES = (
    "edgekd compress teacher.pt --data images/train --test images/test",
    "edgekd compress teacher.pt --data cifar10.npz --trigger patch.npz --target-label 0 --max-asr 2",
    "edgekd compress teacher.pt --data cifar10.npz --target jetson --dry-run",
    "edgekd compress teacher.pt --data none --source patches:street.jpg --normalize cifar10",
    "edgekd compress -c run.yaml -o train.epochs=20 --out runs/longer",
)


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Workflow", epilog=options.examples(*EXAMPLES))(compress)


def compress(
    context: typer.Context,
    teacher: options.Teacher = None,
    data: options.DataOrNone = None,
    source: options.Source = None,
    test: options.Test = None,
    target: options.Target = None,
    student: options.Student = None,
    method: options.Method = None,
    repair: options.Repair = None,
    out: options.RunFolder = None,
    trigger: options.TriggerFile = None,
    target_label: options.TargetLabel = None,
    trigger_rule: options.TriggerRule = None,
    source_label: options.SourceLabels = None,
    trigger_position: options.Position = None,
    trigger_opacity: options.Opacity = None,
    max_asr: options.MaxAsr = None,
    max_acc_drop: options.MaxAccDrop = None,
    max_latency_ms: options.MaxLatency = None,
    reference: options.FloorReference = None,
    reference_arch: options.ReferenceArch = None,
    arch: options.Arch = None,
    normalize: options.Normalize = None,
    num_classes: options.NumClasses = None,
    class_map: options.ClassMap = None,
    image_size: options.ImageSize = None,
    channels: options.Channels = None,
    profile: options.Profile = None,
    controls: options.Controls = None,
    bench: options.Bench = None,
    device: options.Device = None,
    seed: options.Seed = None,
    config: options.Config = None,
    override: options.Override = None,
    dry_run: options.DryRun = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Distil, detoxify, quantise, export and measure a teacher that you do not trust.

    Writes a run folder with report.html, the student, and bundle/ for the board.
    If it is killed, the same command continues where it stopped.
    """
    from ..config import CONTROLS, resolve

    wanted = (
        CONTROLS if controls == "all" else tuple(name.strip() for name in controls.split(",")) if controls else None
    )
    flags: dict[str, Any] = {
        "teacher": teacher, "data": data, "source": source, "test": test, "target": target, "student": student, "distill.method": method,
        "repair.method": repair, "controls": wanted, "profile": profile, "bench.level": bench, "gates.max_asr": max_asr,
        "gates.max_acc_drop": max_acc_drop, "gates.max_latency_ms": max_latency_ms, "arch": arch, "normalize": normalize,
        "num_classes": num_classes, "class_map": class_map, "image_size": image_size, "channels": channels,
        "device": device, "seed": seed, "reference": reference, "reference_arch": reference_arch,
        **options.trigger_flags(trigger, target_label, trigger_rule, source_label, trigger_position, trigger_opacity),
    }  # fmt: skip
    settings = resolve(config, flags, tuple(override or ()))
    screen.explain_target(settings.target)
    if dry_run:
        return _forecast(settings, json_)
    return _run(settings, out, as_typed(context), json_, quiet)


def _run(settings: RunConfig, out: Path | None, command: str, as_json: bool, quiet: bool) -> int:
    from .. import targets
    from ..pipeline import compress as run
    from ..pipeline.unmeetable import unmeetable

    screen.forewarn(unmeetable(settings))
    folder = out or Path("runs") / f"{Path(settings.teacher).stem}-{targets.get(settings.target).name}"
    with progress(quiet or as_json) as bars:
        record = run(settings, folder, command=command, progress=bars)
    return show(record, folder, as_json)


def as_typed(context: typer.Context) -> str:
    """The command line for the record: absolute paths are cut to their names, they are nobody's business."""
    import shlex

    return shlex.join(["edgekd", *map(_named, context.obj)])


def _named(word: str) -> str:
    found = ABSOLUTE.fullmatch(word)
    return word if found is None else f"{found[1] or ''}{Path(found[2]).name}"


def show(record: Any, folder: Path, as_json: bool) -> int:
    """Print the ledger and where the report lies; the exit code says whether every gate passed."""
    passed = all(gate["passed"] for gate in record.gates)
    package = screen.package_sha256(folder / "bundle", record.manifest_sha256)
    if as_json:
        extra = {"pictures": {}, "folder": str(folder), "passed": passed, "package_sha256": package}
        screen.print_json({**record.to_json(), **extra})
        return 0 if passed else 1
    from ..report import transferability
    from ..report.terminal import ledger
    from ..report.text import clean

    out = screen.console()
    out.print(ledger(record))
    out.print()
    plain = transferability.line(record)
    if plain:
        out.print(plain)
    out.print(clean(record.verdict))
    out.print("Not tested: " + clean("; ".join(record.not_tested)) + ".", style="dim")
    for warning in record.warnings:
        out.print("warning: " + clean(warning), style="yellow")  # a board may have worded it
    screen.print_gates(out, record.gates)
    for name, value in (
        ("report", folder / "report.html"),
        ("bundle", folder / "bundle"),
        ("manifest", f"sha256 {clean(record.manifest_sha256)}"),
        ("package", f"sha256 {package}" if package else "the bundle is missing, or no longer this run's"),
    ):
        out.print(f"{name:<9} {value}", soft_wrap=True)
    return 0 if passed else 1


def _forecast(settings: RunConfig, as_json: bool) -> int:
    """What --dry-run prints."""
    from ..pipeline.forecast import forecast

    figures = forecast(settings)
    value = {"config": settings.model_dump(mode="json"), "forecast": figures}
    if as_json:
        screen.print_json(value)
        return 0
    from omegaconf import OmegaConf

    typer.echo(OmegaConf.to_yaml(OmegaConf.create(value["config"])))
    typer.echo(f"{'teacher':<24}{figures['teacher']}\n{'student':<24}{figures['student']}")
    for name, minutes in [*figures["minutes"].items(), ("in all", sum(figures["minutes"].values()))]:
        typer.echo(f"{name:<24}{minutes:8.1f} min")
    typer.echo(f"{'memory':<24}{figures['memory_mib']:8.0f} MiB")
    typer.echo(f"{'disk':<24}{figures['disk_mib']:8.0f} MiB")
    for warning in figures["warnings"]:
        typer.echo(f"warning: {warning}")
    return 0
