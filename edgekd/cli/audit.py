"""edgekd audit: is this model backdoored, as far as the probes can tell?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from . import options, screen
from .progress import progress

if TYPE_CHECKING:
    from ..pipeline.one_stage import Audited


def register(app: typer.Typer) -> None:
    examples = options.examples(
        "edgekd audit teacher.pt --data images/test",
        "edgekd audit teacher.pt --data images/test --reference trusted.pt --reference-arch resnet18",
        "edgekd audit teacher.pt --data images/test --invert found",
        "edgekd audit teacher.pt --data test.npz --trigger trigger.npz --target-label 0 --canaries",
        "edgekd audit teacher.pt --data test.npz --trigger trigger.npz --target-label 0 --max-asr 2",
        "edgekd audit student.safetensors --before teacher.pt --data test.npz --trigger trigger.npz --target-label 0",
        "edgekd audit student.safetensors --data test.npz --no-canaries --adversarial quick --eps 2/255",
        "edgekd audit student.safetensors --data test.npz --adversarial standard --onnx bundle/model.u8s8.onnx",
    )
    app.command(rich_help_panel="Workflow", epilog=examples)(audit)


def audit(
    model: options.AuditedModel = None,
    data: options.AuditedData = None,
    reference: options.Reference = None,
    reference_arch: options.ReferenceArch = None,
    before: options.Before = None,
    before_arch: options.BeforeArch = None,
    canaries: options.Canaries = None,
    invert: options.Invert = None,
    trigger: options.TriggerFile = None,
    target_label: options.TargetLabel = None,
    trigger_rule: options.TriggerRule = None,
    source_label: options.SourceLabels = None,
    trigger_position: options.Position = None,
    trigger_opacity: options.Opacity = None,
    adversarial: options.Adversarial = None,
    eps: options.Eps = None,
    onnx: options.OnnxFile = None,
    max_asr: options.AuditedMaxAsr = None,
    arch: options.Arch = None,
    normalize: options.Normalize = None,
    num_classes: options.NumClasses = None,
    class_map: options.ClassMap = None,
    image_size: options.ImageSize = None,
    channels: options.Channels = None,
    config: options.Config = None,
    override: options.Override = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Measure a model's ACC and ASR on labelled images, for a known trigger or 12 public trigger families x all labels.

    Needs forward passes only. "Nothing found" is not "clean".

    --invert looks for a trigger that nobody told you: a patch.

    --adversarial also measures how many labels survive small changes of every pixel, and whether to trust that figure.
    """
    from ..config import resolve
    from ..pipeline.beside import beside
    from ..pipeline.intake import load_images
    from ..pipeline.one_stage import audit_only

    flags: dict[str, Any] = {
        "teacher": model, "data": data, "arch": arch, "normalize": normalize, "class_map": class_map,
        "num_classes": num_classes, "image_size": image_size, "channels": channels, "audit.canaries": canaries,
        "audit.adversarial": adversarial, "audit.eps": eps, "gates.max_asr": max_asr,
        **options.trigger_flags(trigger, target_label, trigger_rule, source_label, trigger_position, trigger_opacity),
    }  # fmt: skip
    others = beside("reference", reference, reference_arch), beside("before", before, before_arch)
    settings = resolve(config, flags, tuple(override or ()))
    with progress(quiet or json_) as bars:
        images = load_images(settings, settings.data, "test")
        found = audit_only(settings, images, *others, onnx, bars, invert)
    passed = all(gate["passed"] for gate in found.judged.gates)
    if json_:
        screen.print_json({**_as_json(found), "passed": passed})
    else:
        _show(found, invert)
    return 0 if passed else 1


def _as_json(found: Audited) -> dict[str, Any]:
    return {
        "model": found.about,
        "acc": found.report.acc.to_json(),
        "triggers": [score.to_json() for score in found.report.triggers],
        "canaries": found.canaries,
        "verdict": found.judged.verdict,
        "gates": list(found.judged.gates),
        "inversion": found.inversion,
        "adversarial": list(found.adversarial),
        "teaching": found.report.teaching,
        "before": found.before,
        "warnings": list(found.report.warnings),
    }


def _show(found: Audited, folder: Path | None) -> None:
    from ..report import adversarial, inversion
    from ..report.commands import audit_tables

    out, report, judged = screen.console(), found.report, found.judged
    tables = audit_tables(
        found.about,
        report.acc,
        report.triggers,
        found.canaries,
        report.warnings,
        before=found.before,
        verdict=judged.verdict,
        found=judged.found,
        taught=report.teaching,
        inverted=found.inversion is not None,
    )
    sought = () if found.inversion is None else inversion.terminal(found.inversion, str(folder))
    for part in (*sought, *tables, *adversarial.terminal(found.adversarial)):
        out.print(part)
    screen.print_gates(out, judged.gates)
