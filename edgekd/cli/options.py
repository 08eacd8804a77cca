"""Options that several commands share, said once, and the panels that help pages put them under."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

KNOWN_TRIGGER, TEACHER, SETTINGS, OUTPUT = "A trigger that you know", "The network in the file", "Settings", "Output"
GATES = "Gates: exit code 1 where one fails"
ATTACKED = "Small changes of every pixel"

Teacher = Annotated[
    str | None,
    typer.Argument(metavar="TEACHER", help="Teacher file: a state dict (.pt .pth .th .tar), .safetensors or .onnx."),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Training images: a folder with one sub-folder per class, .npz, or the CIFAR release.",
    ),
]
DataOrNone = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Training images: a folder with one sub-folder per class, .npz, or the CIFAR release; none: see --source.",
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="NAME",
        help="With --data none, where images come from: patches (default) or patches:IMAGE, a picture or a folder of "
        "them; zskt, cmi. `edgekd list sources`.",
    ),
]
Test = Annotated[
    str | None,
    typer.Option("--test", metavar="PATH", help="Test images; without them a seeded split 80/10/10 of --data is used."),
]
Target = Annotated[
    str | None,
    typer.Option("--target", metavar="NAME", help="Where it will run: cpu (default), jetson, … `edgekd list targets`."),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method", metavar="NAME", help="Distillation method: robustkd (default), kd, … `edgekd list methods`."
    ),
]
Repair = Annotated[
    str | None,
    typer.Option(
        "--repair",
        metavar="NAME",
        help="Repair the teacher before it is distilled: ft-sam, anp, … `edgekd list repairs`. Default: none.",
    ),
]
Student = Annotated[
    str | None,
    typer.Option(
        "--student",
        metavar="NAME",
        help="Student's architecture: a name of `edgekd list models`, or package.module:callable. "
        "Default: the largest that is smaller than the teacher.",
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="NAME",
        rich_help_panel=TEACHER,
        help="Its architecture, if not recognised: a name of `edgekd list models`, or package.module:callable, "
        "which runs that code.",
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        "--normalize",
        metavar="HOW",
        rich_help_panel=TEACHER,
        help="Its input normalisation: auto (default), a preset such as imagenet, or mean/std as in "
        "0.5,0.5,0.5/0.2,0.2,0.2.",
    ),
]
ClassMap = Annotated[
    str | None,
    typer.Option(
        "--class-map",
        metavar="FILE",
        rich_help_panel=TEACHER,
        help="YAML lines `class: label`, where its labels are in another order than the data's.",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        metavar="PIXELS",
        rich_help_panel=TEACHER,
        help="Side of its input, to which images are brought.",
    ),
]
NumClasses = Annotated[
    int | None,
    typer.Option(
        "--num-classes",
        metavar="N",
        rich_help_panel=TEACHER,
        help="Number of its classes, where the file does not tell.",
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(
        "--channels",
        metavar="N",
        rich_help_panel=TEACHER,
        help="Channels of its input, 1 or 3: grey images become RGB, or RGB grey.",
    ),
]
TriggerFile = Annotated[
    str | None,
    typer.Option(
        "--trigger",
        metavar="FILE",
        rich_help_panel=KNOWN_TRIGGER,
        help="What `edgekd attack` wrote, or your own: an .npz with a and b [H,W,C] for clip(a*x+b), x in 0..1, a PNG patch, "
        "a picture to blend, or a YAML list of several. "
        "Without one the canary battery runs: 12 families of public triggers against every label.",
    ),
]
ExportedTrigger = Annotated[
    str | None,
    typer.Option(
        "--trigger",
        metavar="FILE",
        rich_help_panel=KNOWN_TRIGGER,
        help="What `edgekd attack` wrote, or your own: an .npz with a and b [H,W,C] for clip(a*x+b), x in 0..1, a PNG patch, "
        "a picture to blend, or a YAML list of several. "
        "Its triggered images go into the bundle, so that the board measures ASR; without one it measures ACC alone.",
    ),
]
TargetLabel = Annotated[
    int | None,
    typer.Option(
        "--target-label", metavar="LABEL", rich_help_panel=KNOWN_TRIGGER, help="Label that it is meant to cause."
    ),
]
TriggerRule = Annotated[
    str | None,
    typer.Option(
        "--trigger-rule",
        metavar="RULE",
        rich_help_panel=KNOWN_TRIGGER,
        help="all-to-one (default), all-to-all (label + 1), or source (see --source-label).",
    ),
]
SourceLabels = Annotated[
    list[int] | None,
    typer.Option(
        "--source-label",
        metavar="LABEL",
        rich_help_panel=KNOWN_TRIGGER,
        help="Label that a source-specific trigger acts on; may be repeated.",
    ),
]
Position = Annotated[
    str | None,
    typer.Option(
        "--trigger-position",
        metavar="PLACE",
        rich_help_panel=KNOWN_TRIGGER,
        help="For a PNG patch: top-left, top-right, bottom-left, bottom-right, or row,column of its upper left pixel.",
    ),
]
Opacity = Annotated[
    float | None,
    typer.Option(
        "--trigger-opacity",
        metavar="0..1",
        rich_help_panel=KNOWN_TRIGGER,
        help="For a picture: alone it is blended over the whole image.",
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        rich_help_panel=SETTINGS,
        help="fast (default: CIFAR-10 from a WRN-16-1 in 15 minutes on two cores, with a known trigger and one control; --dry-run "
        "says how long yours takes) or full (our long schedule: 200 epochs).",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="NAME", rich_help_panel=SETTINGS, help="Where to train: cpu, cuda, or auto (default)."
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", metavar="N", rich_help_panel=SETTINGS, help="Every random choice derives from it; default 0."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "-c", "--config", metavar="FILE", rich_help_panel=SETTINGS, help="YAML with any of `edgekd list settings`."
    ),
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="KEY=VALUE",
        rich_help_panel=SETTINGS,
        help="Any of `edgekd list settings`, e.g. -o train.epochs=20; may be repeated, wins over all else.",
    ),
]
RunFolder = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Run folder; default runs/<teacher>-<target>.")
]
MaxAsr = Annotated[
    float | None,
    typer.Option(
        "--max-asr",
        metavar="PERCENT",
        rich_help_panel=GATES,
        help="ASR above its floor, of the worst trigger on what ships.",
    ),
]
AuditedMaxAsr = Annotated[
    float | None,
    typer.Option(
        "--max-asr",
        metavar="PERCENT",
        rich_help_panel=GATES,
        help="ASR of the worst trigger above that of --reference; without one above its untriggered rate.",
    ),
]
MaxAccDrop = Annotated[
    float | None,
    typer.Option(
        "--max-acc-drop",
        metavar="POINTS",
        rich_help_panel=GATES,
        help="ACC lost since the teacher; below 0.5 it also binds what INT8 alone may cost (quantize.guard.max_drop).",
    ),
]
MaxLatency = Annotated[
    float | None,
    typer.Option("--max-latency-ms", metavar="MS", rich_help_panel=GATES, help="Median latency (p50) of what ships."),
]
Controls = Annotated[
    str | None,
    typer.Option(
        "--controls",
        metavar="LIST",
        rich_help_panel=SETTINGS,
        help="Trained beside it at equal budget: all, or some of scratch,kd,overhaul,finetune. "
        "scratch always is: it gives the ASR floor.",
    ),
]
Bench = Annotated[
    str | None,
    typer.Option(
        "--bench",
        metavar="LEVEL",
        rich_help_panel=SETTINGS,
        help="How long to measure: smoke (default, seconds), standard (minutes), official (half an hour a file, or more), none.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar="",
        rich_help_panel=OUTPUT,
        help="Print the resolved configuration and a forecast from a few steps; write nothing.",
    ),
]
AuditedModel = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="A state dict (.pt .pth .th .tar), .safetensors or .onnx.")
]
AuditedData = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Labelled images that it was not trained on: a folder of classes, .npz, or the CIFAR release.",
    ),
]
Reference = Annotated[
    str | None,
    typer.Option("--reference", metavar="FILE", help="A model that no attacker touched; its ASR is the floor."),
]
FloorReference = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="FILE",
        help="With --data none: a model that no attacker touched; its ASR is the floor, as no student can be trained "
        "from scratch. Needs --test.",
    ),
]
ReferenceArch = Annotated[
    str | None,
    typer.Option(
        "--reference-arch",
        metavar="NAME",
        help="Architecture of --reference, if not recognised; --arch and --normalize do not speak of it.",
    ),
]
Before = Annotated[
    str | None,
    typer.Option(
        "--before",
        metavar="FILE",
        help="The model before a defence made MODEL of it: DER says what the defence took from a known trigger, less "
        "the ACC it cost.",
    ),
]
BeforeArch = Annotated[
    str | None, typer.Option("--before-arch", metavar="NAME", help="Architecture of --before, if not recognised.")
]
Canaries = Annotated[
    bool | None,
    typer.Option(
        "--canaries/--no-canaries", metavar="", help="Probe public triggers; default: only without --trigger."
    ),
]
Adversarial = Annotated[
    str | None,
    typer.Option(
        "--adversarial",
        metavar="TIER",
        rich_help_panel=ATTACKED,
        help="How hard: smoke (seconds), quick (PGD), standard (APGD and Square), full (AutoAttack's standard set). "
        "An image counts as robust only if every attack fails.",
    ),
]
Eps = Annotated[
    str | None,
    typer.Option(
        "--eps",
        metavar="SIZE",
        rich_help_panel=ATTACKED,
        help="Largest change of a pixel, of 1: 8/255 (default), 0.03. Networks that were not trained for it survive about 1/255.",
    ),
]
OnnxFile = Annotated[
    str | None,
    typer.Option(
        "--onnx",
        metavar="FILE",
        rich_help_panel=ATTACKED,
        help="The ONNX file made from MODEL, INT8 or not, attacked too: by examples of MODEL and of a copy of the file with "
        "gradients, and by queries; the worst counts.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", metavar="", rich_help_panel=OUTPUT, help="Print one JSON object for machines."),
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", metavar="", rich_help_panel=OUTPUT, help="No progress bars.")]


def trigger_flags(
    trigger: str | None,
    target_label: int | None,
    rule: str | None,
    source_labels: list[int] | None,
    position: str | None,
    opacity: float | None,
) -> dict[str, object]:
    """The trigger's options as dotted settings; None where not given."""
    return {
        "trigger.file": trigger,
        "trigger.target_label": target_label,
        "trigger.rule": rule,
        "trigger.source_labels": tuple(source_labels) if source_labels else None,
        "trigger.position": position.split(",") if position and re.fullmatch(r"-?\d+(,-?\d+)*", position) else position,
        "trigger.opacity": opacity,
    }


def examples(*lines: str) -> str:
    """The end of a help page."""
    return "\n".join(["[bold]Examples[/bold]", *("  " + line.replace("[", "\\[") for line in lines)])
