"""Options that several commands share, said once, and the panels that help pages put them under."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

KNOWN_TRIGGER, TEACHER, SETTINGS, OUTPUT = "A trigger that you know", "The network in the file", "Settings", "Output"
GATES = "Gates: exit code 1 if one fails"
ATTACKED = "Adversarial attacks: small changes of every pixel"

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
        help="Where images come from with --data none: patches (default), patches:IMAGE (a picture or a folder of "
        "them), zskt or cmi. See `edgekd list sources`.",
    ),
]
Test = Annotated[
    str | None,
    typer.Option("--test", metavar="PATH", help="Test images; default: a seeded 80/10/10 split of --data."),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="Where the student will run: cpu (default), jetson, … See `edgekd list targets`.",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method", metavar="NAME", help="Distillation method: robustkd (default), kd, … See `edgekd list methods`."
    ),
]
Repair = Annotated[
    str | None,
    typer.Option(
        "--repair",
        metavar="NAME",
        help="Repair the teacher before it is distilled: ft-sam, anp, … See `edgekd list repairs`. Default: none.",
    ),
]
Student = Annotated[
    str | None,
    typer.Option(
        "--student",
        metavar="NAME",
        help="Student's architecture: a name from `edgekd list models`, or package.module:callable. Default: the "
        "largest that is smaller than the teacher.",
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="NAME",
        rich_help_panel=TEACHER,
        help="Its architecture, if not recognised: a name from `edgekd list models`, or package.module:callable, "
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
        help="YAML file of `class: label` lines, if its labels are in another order than the data's.",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        metavar="PIXELS",
        rich_help_panel=TEACHER,
        help="Side of its input in pixels, to which images are resized.",
    ),
]
NumClasses = Annotated[
    int | None,
    typer.Option(
        "--num-classes",
        metavar="N",
        rich_help_panel=TEACHER,
        help="Number of its classes, if the file does not tell.",
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(
        "--channels",
        metavar="N",
        rich_help_panel=TEACHER,
        help="Channels of its input, 1 or 3: images are converted to grey or RGB.",
    ),
]
TriggerFile = Annotated[
    str | None,
    typer.Option(
        "--trigger",
        metavar="FILE",
        rich_help_panel=KNOWN_TRIGGER,
        help="What `edgekd attack` wrote, or your own: an .npz with a and b [H,W,C] for clip(a*x+b), x in 0..1, a "
        "PNG patch, a picture to blend, or a YAML list of several. Without one, the canary battery runs: 12 "
        "families of public triggers against every label.",
    ),
]
ExportedTrigger = Annotated[
    str | None,
    typer.Option(
        "--trigger",
        metavar="FILE",
        rich_help_panel=KNOWN_TRIGGER,
        help="What `edgekd attack` wrote, or your own: an .npz with a and b [H,W,C] for clip(a*x+b), x in 0..1, a "
        "PNG patch, a picture to blend, or a YAML list of several. Its triggered images go into the bundle, "
        "so that the board measures ASR; without one, it measures ACC only.",
    ),
]
TargetLabel = Annotated[
    int | None,
    typer.Option(
        "--target-label",
        metavar="LABEL",
        rich_help_panel=KNOWN_TRIGGER,
        help="Label that the trigger is meant to cause.",
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
        help="For a picture: without a position, it is blended over the whole image.",
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        rich_help_panel=SETTINGS,
        help="fast (default: CIFAR-10 from a WRN-16-1 in 15 minutes on two cores, with a known trigger and one "
        "control; --dry-run estimates yours) or full (our long schedule: 200 epochs).",
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
    typer.Option("--seed", metavar="N", rich_help_panel=SETTINGS, help="Seed of every random choice; default 0."),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "-c", "--config", metavar="FILE", rich_help_panel=SETTINGS, help="YAML file with any of `edgekd list settings`."
    ),
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="KEY=VALUE",
        rich_help_panel=SETTINGS,
        help="Any of `edgekd list settings`, e.g. -o train.epochs=20; may be repeated, overrides all else.",
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
        help="Limit on the worst trigger's ASR above its floor, for what ships.",
    ),
]
AuditedMaxAsr = Annotated[
    float | None,
    typer.Option(
        "--max-asr",
        metavar="PERCENT",
        rich_help_panel=GATES,
        help="Limit on the worst trigger's ASR above that of --reference or, without one, above its untriggered rate.",
    ),
]
MaxAccDrop = Annotated[
    float | None,
    typer.Option(
        "--max-acc-drop",
        metavar="POINTS",
        rich_help_panel=GATES,
        help="Limit on the ACC lost since the teacher; below 0.5 it also limits what INT8 alone may cost "
        "(quantize.guard.max_drop).",
    ),
]
MaxLatency = Annotated[
    float | None,
    typer.Option(
        "--max-latency-ms", metavar="MS", rich_help_panel=GATES, help="Limit on the median latency (p50) of what ships."
    ),
]
Controls = Annotated[
    str | None,
    typer.Option(
        "--controls",
        metavar="LIST",
        rich_help_panel=SETTINGS,
        help="Networks trained beside the student at equal budget: all, or some of scratch,kd,overhaul,finetune. "
        "scratch always runs: it gives the ASR floor.",
    ),
]
Bench = Annotated[
    str | None,
    typer.Option(
        "--bench",
        metavar="LEVEL",
        rich_help_panel=SETTINGS,
        help="How long to measure: smoke (default, seconds), standard (minutes), official (half an hour a file, "
        "or more) or none.",
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
        help="Labelled images that the model was not trained on: a folder of classes, .npz, or the CIFAR release.",
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
        help="With --data none: a model that no attacker touched. Its ASR is the floor, since no student can be "
        "trained from scratch. Needs --test.",
    ),
]
ReferenceArch = Annotated[
    str | None,
    typer.Option(
        "--reference-arch",
        metavar="NAME",
        help="Architecture of --reference, if not recognised; --arch and --normalize do not apply to it.",
    ),
]
Before = Annotated[
    str | None,
    typer.Option(
        "--before",
        metavar="FILE",
        help="The model before the defence that made MODEL. DER then says what the defence took from a known "
        "trigger, less the ACC it cost.",
    ),
]
BeforeArch = Annotated[
    str | None, typer.Option("--before-arch", metavar="NAME", help="Architecture of --before, if not recognised.")
]
Canaries = Annotated[
    bool | None,
    typer.Option("--canaries/--no-canaries", metavar="", help="Try public triggers; default: only without --trigger."),
]
Invert = Annotated[
    Path | None,
    typer.Option(
        "--invert",
        metavar="FOLDER",
        help="Search the smallest patch that throws images into each class (Neural Cleanse). The smallest of all goes into "
        "FOLDER as a trigger file for compress --trigger, with a picture of them. Takes 500 batches of 32 images per class.",
    ),
]
Adversarial = Annotated[
    str | None,
    typer.Option(
        "--adversarial",
        metavar="TIER",
        rich_help_panel=ATTACKED,
        help="How hard to attack: smoke (seconds), quick (PGD), standard (APGD and Square), full (AutoAttack's "
        "standard set). An image counts as robust only if every attack fails.",
    ),
]
Eps = Annotated[
    str | None,
    typer.Option(
        "--eps",
        metavar="SIZE",
        rich_help_panel=ATTACKED,
        help="Largest change of a pixel, in [0, 1]: 8/255 (default), 0.03. Networks that were not trained for it "
        "survive about 1/255.",
    ),
]
OnnxFile = Annotated[
    str | None,
    typer.Option(
        "--onnx",
        metavar="FILE",
        rich_help_panel=ATTACKED,
        help="The ONNX file made from MODEL, INT8 or not, to attack too: with examples found on MODEL and on a "
        "copy of the file with gradients, and by queries. The worst counts.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", metavar="", rich_help_panel=OUTPUT, help="Print one JSON object instead."),
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
