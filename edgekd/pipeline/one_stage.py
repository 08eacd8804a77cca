"""One stop of the trip at a time: what the commands distill, audit and export call."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from edgekd_device.metrics import defence_effectiveness

from .. import audit, checkpoints, models, targets
from ..config import RunConfig
from ..data import ImageSet
from ..errors import UsageError
from ..export import bundle as bundle_writer
from ..export import onnx as onnx_writer
from ..files import remove_leftovers
from ..runners.torch import TorchRunner
from ..training import Progress
from ..training.device import resolve_device
from ..types import AuditReport, Model
from . import intake, inversion, ledger, vetting
from .adversarial import attack_network, onnx_model
from .audited import Judged, judge, with_patch
from .beside import Beside, load_beside
from .calibration import trusted
from .folder import RunFolder
from .quantised import Material, Passing, Twins
from .shipment import about, export, host_runner
from .stages import Stages, padded


def distill_only(config: RunConfig, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Train the student alone and write ``out/student.safetensors``; returns its place and its validation ACC."""
    refuse_no_data(config)
    vetting.refuse_unaudited(config, audits=False)
    with RunFolder(out).open(config) as folder:
        stages = Stages(config, folder, intake.load_data(config), targets.get(config.target), progress)
        stages.intake()
        spec = stages.student_spec()
        stages.refuse_misfits(spec, config.method)
        folder.claim()
        repaired = stages.repair()
        student = stages.train_student(spec, repaired, None)
        file = stages.deliver()
        validation = stages.parts["validation"]
        report = audit.scan(TorchRunner(student), audit.probes(validation, (), student.spec.num_classes))
        return {"student": str(file), "spec": student.spec.to_json(), "validation_acc": report.acc.to_json()}


def refuse_no_data(config: RunConfig) -> None:
    """Raise UsageError for ``--data none`` where images with labels are needed."""
    if config.data_free:
        raise UsageError("Without data only the whole pipeline runs: edgekd compress TEACHER --data none.")


class Audited(NamedTuple):
    """canaries: the battery's table. about: what was found out about the file. adversarial: a table per artefact.

    before: what the model before the defence does, and DER. inversion: the table of audit.invert.
    """

    report: AuditReport
    canaries: dict[str, Any] | None
    about: dict[str, Any]
    judged: Judged
    adversarial: tuple[dict[str, Any], ...]
    before: dict[str, Any] | None
    inversion: dict[str, Any] | None = None


def audit_only(
    config: RunConfig,
    images: ImageSet,
    reference: Beside | None = None,
    before: Beside | None = None,
    onnx: str | None = None,
    progress: Progress | None = None,
    invert: Path | None = None,
) -> Audited:
    """Probe one model file: the known trigger, or the canary battery without one; and attack it, where that is wanted.

    reference: a model that no attacker touched; its ASR is the floor. before: what a defence made the model of.
    onnx: the file made from the model, which is then attacked too. invert: a folder for the smallest patch that is found.
    """
    if before is not None and config.trigger.file is None:
        raise UsageError(
            "--before compares what a known trigger does before and after. Give the trigger with --trigger."
        )
    if onnx is not None and config.audit.adversarial is None:
        raise UsageError("--onnx names a file to attack. Say how hard with --adversarial, e.g. --adversarial quick.")
    model, about = intake.load_teacher(config, images)
    clean, undefended = (
        None if other is None else load_beside(config, other, images)[0] for other in (reference, before)
    )
    triggers = intake.load_triggers(config, model.spec)
    probes = audit.probes(images, triggers, model.spec.num_classes)
    held = audit.scan(TorchRunner(clean), probes) if clean else None
    report = audit.scan(TorchRunner(model), probes, floors=audit.floors(held) if held else None)
    wanted = config.audit.canaries if config.audit.canaries is not None else not triggers
    canaries = None
    if wanted:
        canaries = audit.canary_battery(
            TorchRunner(model),
            images,
            floor_predict=TorchRunner(clean) if clean else None,
            limit=config.audit.canary_images,
            progress=progress,
        )
    inverted = None
    if invert is not None:
        how: dict[str, Any] = {"seed": config.seed, "device": config.device, "progress": progress}
        inverted = inversion.invert(model, images, invert, steps=config.audit.inversion_steps, **how).table
    tables = _under_attack(config, model, about["file"], onnx, images, progress)
    judged = with_patch(judge(report, canaries, held, config.gates.max_asr), inverted, config.gates.max_asr)
    compared = None
    if before is not None and undefended is not None:
        compared = _compared(Path(before.file).name, audit.scan(TorchRunner(undefended), probes), report)
    taught = None if clean is None else audit.teaching(TorchRunner(model), TorchRunner(clean), images)
    report = dataclasses.replace(
        report, canaries=canaries, teaching=taught, alarms=judged.alarms, model_sha256=model.sha256
    )
    return Audited(report, canaries, about, judged, tables, compared, inverted)


def _compared(name: str, before: AuditReport, after: AuditReport) -> dict[str, Any]:
    """The model before the defence, and DER by trigger; None where nothing was counted, as JSON can hold it."""
    scores = []
    for was, now in zip(before.triggers, after.triggers, strict=True):
        rates = (before.acc, was.asr, after.acc, now.asr)
        der = defence_effectiveness(*(rate.value for rate in rates)) if all(rate.total for rate in rates) else None
        scores.append({"trigger": was.trigger, "asr": was.asr.to_json(), "ra": was.ra.to_json(), "der": der})
    return {"file": name, "acc": before.acc.to_json(), "triggers": scores}


def _under_attack(
    config: RunConfig, model: Model, name: str, onnx: str | None, images: ImageSet, progress: Progress | None
) -> tuple[dict[str, Any], ...]:
    if config.audit.adversarial is None:
        return ()
    device = str(resolve_device(config.device))
    how: dict[str, Any] = {"seed": config.seed, "device": device, "progress": progress}
    file = None if onnx is None else onnx_model(onnx, model)  # a bad one is said before a long attack
    made = attack_network(model, images, config.audit, name=name, **how)
    if file is not None and onnx is not None:
        made += attack_network(file, images, config.audit, name=Path(onnx).name, network=made[-1], **how)
    return tuple(one.table for one in made)


def load_student(config: RunConfig, validation: ImageSet) -> Model:
    """A network from safetensors that edgekd wrote (its sidecar names the architecture), or any readable checkpoint."""
    spec = intake.noted_spec(config)
    if spec is not None:
        return models.build(spec, checkpoints.load_student(config.teacher)[0])
    model, about = intake.load_teacher(config, validation)
    if about["format"] == "onnx":
        raise UsageError(
            f"{config.teacher} is already an ONNX graph. Export starts from weights: give safetensors or a state dict."
        )
    return model


def export_only(config: RunConfig, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Quantise and export a trained student into the bundle ``out``; calibrated on the training part of the data."""
    refuse_no_data(config)
    if not bundle_writer.unfinished(out):
        raise UsageError(f"{out} is not empty. Choose another folder with --out.")
    parts = intake.load_data(config)
    target = targets.get(config.target)
    student = load_student(config, parts["validation"])
    intake.refuse_unknown_labels(parts.values(), student.spec)
    triggers = intake.load_triggers(config, student.spec)
    probes = audit.probes(parts["test"], triggers, student.spec.num_classes)
    with tempfile.TemporaryDirectory(prefix="edgekd-export-") as place:
        settings = config.quantize
        calibration = trusted(parts["train"], TorchRunner(student), settings.images, settings.seed)
        images = Material(calibration, parts["train"], parts["validation"])
        device = str(resolve_device(config.device))
        twin = Twins(student, images, config, Passing(Path(place)), device=device, progress=progress)
        files = export(student, twin, target, parts["validation"].images, Path(place), progress)
        exact = audit.scan(TorchRunner(student), probes)
        rows, answers = [], {}
        for file in files:
            report = audit.scan(host_runner(file), probes)
            rows.append(ledger.row(Path(file.path).name, report, **about(file, report, exact)))
            if report.predictions is not None:
                answers[rows[-1].stage] = report.predictions
        remove_leftovers(out, deep=False)
        path, manifest = bundle_writer.write(
            out,
            target=target,
            spec=student.spec,
            class_names=padded(parts["train"].class_names, student.spec.num_classes),
            onnx=files,
            probes=probes,
            floors={},
            teacher_sha256=checkpoints.digest(config.teacher),
            student_sha256=student.sha256,
            references={row.stage: row for row in rows},
            answers=answers,
        )
    return {
        "bundle": str(path.parent),
        "manifest_sha256": manifest,
        "onnx": [{**file.to_json(), "path": Path(file.path).name} for file in files],
        "measured": [row.to_json() for row in rows],
        "training": twin.logs(),
        "warnings": [*twin.doubts(), *onnx_writer.doubts(files)],
    }
