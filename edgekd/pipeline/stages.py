"""The stages of a run: each asks the run folder whether it is done, and otherwise does the work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from edgekd_device import harness

from .. import audit, checkpoints, distill, models, quantize
from .. import triggers as trigger_box
from ..config import RunConfig, method_config
from ..data import ImageSet
from ..export import bundle as bundle_writer
from ..export import onnx as onnx_writer
from ..files import write_bytes
from ..quantize.images import select
from ..runners.onnx import OnnxRunner
from ..runners.torch import TorchRunner
from ..training import Progress
from ..training.device import resolve_device
from ..types import (
    AuditReport,
    DeviceReport,
    Latency,
    Model,
    ModelSpec,
    OnnxFile,
    ProbeSet,
    Rate,
    StageRow,
    Target,
    Trigger,
)
from . import intake, ledger, pictures
from .folder import RunFolder
from .predictions import load_audit, save_audit

PARITY_IMAGES = 512


class Stages:
    """What the trip needs at every stop: configuration, run folder, images, and what was found so far."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        parts: dict[str, ImageSet],
        target: Target,
        progress: Progress | None,
    ) -> None:
        self.config, self.folder, self.parts, self.target, self.progress = config, folder, parts, target, progress
        self.device = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        self.reports: dict[str, AuditReport] = {}
        self.logs: dict[str, Any] = {}
        self.canaries: dict[str, Any] | None = None
        self.warnings: list[str] = []
        self.about_teacher: dict[str, Any] = {}
        self._floors: dict[str, Rate] | None = None
        self._probes: ProbeSet | None = None

    # ---- intake -----------------------------------------------------------------------------------------------------

    def intake(self) -> Model:
        """The teacher; what was found out about it is kept, so that a resumed run does not look again."""
        validation = self.parts["validation"]
        inputs = {
            "teacher": checkpoints.digest(self.config.teacher),
            "arch": self.config.arch,
            "normalize": self.config.normalize,
            "validation": validation.sha256,
        }
        found: list[Model] = []

        def make(folder: Path) -> dict[str, Any]:
            model, about = intake.load_teacher(self.config, validation)
            found.append(model)
            return about

        self.about_teacher = self.folder.stage("intake", inputs, make)
        self.teacher = found[0] if found else intake.rebuild(self.config, self.about_teacher)
        self.class_names = padded(self.parts["train"].class_names, self.teacher.spec.num_classes)
        note = self.about_teacher["normalization"].get("note")
        self.warnings += [*self.about_teacher["warnings"], *([note] if note else [])]
        return self.teacher

    def student_spec(self) -> ModelSpec:
        """The student asked for, or the target's largest that is smaller than the teacher."""
        spec = choose_student(self.config, self.teacher, self.about_teacher, self.target)
        parameters, limit = models.cost(spec).parameters, self.about_teacher["parameters"]
        if limit and parameters >= limit:
            self.warnings.append(
                f"The student {spec.arch} has {parameters:,} parameters, the teacher {limit:,}: nothing is compressed."
            )
        return spec

    def refuse_misfits(self, student: ModelSpec, *methods: str) -> None:
        """Raise now what would otherwise be refused after some hours of training."""
        resolve_device(self.config.device)
        intake.refuse_unknown_labels(self.parts.values(), self.teacher.spec)
        for method in dict.fromkeys(methods):
            distill.check(self.teacher, student, self.parts["train"], method, self._options(method))

    def refuse_unmeasurable(self) -> None:
        """Raise now what quantiser and audit would refuse: calibration images that are none, a trigger that is none."""
        select(self.parts["train"].images, self.config.quantize.images, self.config.quantize.seed)
        audit.probes(self.parts["test"], self._known(), self.teacher.spec.num_classes)

    # ---- training ---------------------------------------------------------------------------------------------------

    def train(self, method: str, spec: ModelSpec) -> Model:
        """A trained network; ``method`` is a row of distill.METHODS, a control or the method of the run."""
        options = self._options(method)
        config = self.config.train.model_copy(update={"device": self.device, "seed": self.config.seed})
        inputs = {
            "method": method,
            "options": options,
            "student": spec.to_json(),
            "train": config.model_dump(mode="json"),
            "data": self.parts["train"].sha256,
            "teacher": "" if method == "scratch" else self.teacher.sha256,
        }
        name = f"train-{method}"

        def make(folder: Path) -> dict[str, Any]:
            model, log = distill.run(
                None if method == "scratch" else self.teacher,
                spec,
                self.parts["train"],
                method,
                options,
                config,
                folder=folder,
                validate=lambda module: {"acc": self._accuracy(module)},
                accuracy=self._accuracy,
                progress=self.progress,
            )
            sha256 = checkpoints.save(
                folder / "model.safetensors", models.weights(model), {"spec": model.spec.to_json(), "method": method}
            )
            return {
                "files": ["model.safetensors"],
                "sha256": sha256,
                "spec": model.spec.to_json(),
                "log": log.to_json(),
            }

        result = self.folder.stage(name, inputs, make)
        self.logs[method] = result["log"]
        if result["log"]["method"].get("detox", {}).get("within_max_drop") is False:
            self.warnings.append(
                "Detoxification cost the teacher more validation ACC than distill.max_drop allows; its best state was used."
            )
        tensors, _ = checkpoints.load_student(self.folder.file(name, "model.safetensors"))
        return models.build(ModelSpec.from_json(result["spec"]), tensors)

    def _options(self, method: str) -> dict[str, Any]:
        """The run's own settings for its method, the defaults for every control."""
        return self.config.options if method == self.config.method else method_config(method)().model_dump(mode="json")

    def _accuracy(self, predict: Any) -> float:
        """ACC of a module or function (float images -> logits) on the validation images."""
        validation = self.parts["validation"]
        with torch.inference_mode():
            hits = 0
            for start in range(0, len(validation), 500):
                images = torch.from_numpy(validation.images[start : start + 500]).to(self.device)
                logits = predict(images.float().div(255).to(memory_format=torch.channels_last))
                labels = torch.from_numpy(validation.labels[start : start + 500]).to(self.device)
                hits += int((logits.argmax(1) == labels).sum())
        return hits / max(len(validation), 1)

    # ---- probes and audits ------------------------------------------------------------------------------------------

    def triggers(self, scratch: Model) -> tuple[Trigger, ...]:
        """The known trigger, and the canaries that come nearest to working on the teacher."""
        known = self._known()
        wanted = self.config.audit.canaries if self.config.audit.canaries is not None else not known
        return known + (self._canaries(scratch) if wanted else ())

    def _known(self) -> tuple[Trigger, ...]:
        return intake.load_triggers(self.config, self.teacher.spec)

    def _canaries(self, scratch: Model) -> tuple[Trigger, ...]:
        test, limit = self.parts["test"], self.config.audit.canary_images
        inputs = {
            "teacher": self.teacher.sha256,
            "scratch": scratch.sha256,
            "test": test.sha256,
            "images": limit,
        }

        def make(folder: Path) -> dict[str, Any]:
            table = audit.canary_battery(
                TorchRunner(self.teacher, self.device),
                test,
                floor_predict=TorchRunner(scratch, self.device),
                limit=limit,
                progress=self.progress,
            )
            return {"table": table}

        self.canaries = self.folder.stage("canaries", inputs, make)["table"]
        by_name = {trigger.name: trigger for trigger in trigger_box.canaries(self.teacher.spec.input.shape)}
        chosen = audit.worst_canaries(self.canaries, self.config.audit.bundle_canaries)
        return tuple(dataclasses.replace(by_name[name], target_label=label) for name, label in chosen)

    def probes(self, triggers: tuple[Trigger, ...]) -> ProbeSet:
        """The test images, clean and triggered: made once, seen alike by every stage."""
        self._probes = audit.probes(self.parts["test"], triggers, self.teacher.spec.num_classes)
        return self._probes

    def audit(self, stage: str, sha256: str, predict: Any) -> AuditReport:
        """The probes' verdict on one artefact, kept with its predictions."""
        probes = self._probes
        assert probes is not None
        floors = {} if self._floors is None else {k: r.to_json() for k, r in self._floors.items()}
        name = "audit-" + stage.replace(" ", "-")

        def make(folder: Path) -> dict[str, Any]:
            return save_audit(folder, audit.scan(predict, probes, floors=self._floors))

        result = self.folder.stage(name, {"model": sha256, "probes": probes.sha256, "floors": floors}, make)
        self.reports[stage] = load_audit(self.folder.path / "work" / name, result)
        return self.reports[stage]

    def floors(self, scratch: Model) -> dict[str, Rate]:
        """ASR of the scratch control, which no attacker touched, on the same triggered images."""
        self._floors = audit.floors(self.audit("floor", scratch.sha256, TorchRunner(scratch, self.device)))
        del self.reports["floor"]
        return self._floors

    def row(self, stage: str, model: Model, *, kind: str = "stage", precision: str = "fp32") -> StageRow:
        """The ledger row of a torch model."""
        report = self.audit(stage, model.sha256, TorchRunner(model, self.device))
        cost = (
            models.Cost(self.about_teacher["parameters"], self.about_teacher["macs"])
            if stage == "teacher"
            else models.cost(model.spec)
        )
        before = list(self.reports)[-2] if kind == "stage" and len(self.reports) > 1 else None
        if kind == "stage" and stage == "student fp32":
            before = "teacher"
        return ledger.row(
            stage,
            report,
            runtime="torch",
            precision=precision,
            sha256=model.sha256,
            kind=kind,
            flips=None if before is None else audit.flips(self.reports[before], report),
            parameters=cost.parameters,
            macs=cost.macs,
            size_bytes=4 * cost.parameters if precision == "fp32" else None,
            latency=self._latency(stage, model) if kind == "stage" and precision == "fp32" else None,
            seconds=self.folder.seconds.get(f"train-{stage if kind == 'control' else self.config.method}")
            if stage != "teacher" and precision == "fp32"
            else None,
        )

    def _latency(self, stage: str, model: Model) -> Latency | None:
        """Torch's time for one image, so that teacher and student can be compared; None where nothing is to be timed."""
        if self.config.bench.level == "none":
            return None
        threads = self.config.bench.threads or self.target.threads

        def make(folder: Path) -> dict[str, Any]:
            return TorchRunner(model, self.device).latency(self.parts["validation"].images, threads).to_json()

        inputs = {"model": model.sha256, "threads": threads, "device": self.device}
        return Latency.from_json(self.folder.stage("latency-" + stage.replace(" ", "-"), inputs, make))

    # ---- export and measurement -------------------------------------------------------------------------------------

    def export(self, student: Model) -> tuple[Model, tuple[OnnxFile, ...]]:
        """The fake-quantised twin of the flavour that ships, and every ONNX file that the target asks for."""
        wanted = [flavour for flavour, row in onnx_writer.FLAVOURS.items() if row.file in self.target.files]
        twins: dict[str, Model] = {}

        def twin(quantizer: str) -> Model:
            if quantizer not in twins:
                config = self.config.quantize.model_copy(update={"flavour": quantizer})
                twins[quantizer] = quantize.ptq(student, self.parts["train"], config)
            return twins[quantizer]

        def make(folder: Path) -> dict[str, Any]:
            images, made = self.parts["validation"].images[:PARITY_IMAGES], []
            for number, flavour in enumerate(wanted):
                row = onnx_writer.FLAVOURS[flavour]
                if self.progress:
                    self.progress(f"export {row.file}", number, len(wanted), {})
                source = twin(row.quantizer) if row.quantizer else student
                made.append(onnx_writer.export(source, folder / row.file, flavour, images).to_json())
            return {"files": [onnx_writer.FLAVOURS[f].file for f in wanted], "onnx": made}

        inputs = {
            "student": student.sha256,
            "quantize": self.config.quantize.model_dump(mode="json"),
            "flavours": wanted,
            "calibration": self.parts["train"].sha256,
        }
        result = self.folder.stage("export", inputs, make)
        files = tuple(
            dataclasses.replace(OnnxFile.from_json(v), path=str(self.folder.file("export", Path(v["path"]).name)))
            for v in result["onnx"]
        )
        shipped = next(row for row in onnx_writer.FLAVOURS.values() if row.file == self.target.ships)
        return twin(shipped.quantizer or "u8s8"), files

    def reference_rows(self, files: tuple[OnnxFile, ...]) -> list[StageRow]:
        """What the host's onnxruntime makes of every ONNX file: ACC, ASR and flips, no timing: equal in every run."""
        rows: list[StageRow] = []
        for file in files:
            stage = Path(file.path).name
            runner = OnnxRunner(Path(file.path).read_bytes(), threads=torch.get_num_threads())
            report = self.audit(stage, file.sha256, runner)
            before = self.reports["student fp32"]
            rows.append(
                ledger.row(
                    stage,
                    report,
                    runtime="onnxruntime",
                    precision=onnx_writer.FLAVOURS[file.flavour].precision,
                    sha256=file.sha256,
                    flips=audit.flips(before, report),
                    size_bytes=file.bytes,
                )
            )
        return rows

    def bundle(self, student: Model, files: tuple[OnnxFile, ...], floors: dict[str, Rate]) -> str:
        """The directory that goes to the board, and student.safetensors beside it; returns the manifest's SHA-256."""
        weights = self.folder.file(f"train-{self.config.method}", "model.safetensors").read_bytes()
        write_bytes(self.folder.path / "student.safetensors", weights, "student")
        probes = self._probes
        assert probes is not None
        references = {row.stage: row.to_json() for row in self.reference_rows(files)}

        def make(folder: Path) -> dict[str, Any]:
            _, sha256 = bundle_writer.write(
                self.folder.path / "bundle",
                target=self.target,
                spec=student.spec,
                class_names=self.class_names,
                onnx=files,
                probes=probes,
                floors=floors,
                teacher_sha256=self.about_teacher["sha256"],
                student_sha256=student.sha256,
                references=references,
            )
            return {"files": ["../../bundle/manifest.json"], "manifest_sha256": sha256}

        inputs = {
            "onnx": [file.sha256 for file in files],
            "probes": probes.sha256,
            "target": dataclasses.asdict(self.target),
            "class_names": list(self.class_names),
            "references": references,
        }
        return str(self.folder.stage("bundle", inputs, make)["manifest_sha256"])

    def bench(self, manifest_sha256: str) -> DeviceReport | None:
        """The bundle measured on this machine by the device package, as a board would; None where not wanted."""
        level = self.config.bench.level
        if level == "none":
            return None

        def make(folder: Path) -> dict[str, Any]:
            report = harness.run(
                self.folder.path / "bundle",
                level=level,
                runtime="onnxruntime",
                threads=self.config.bench.threads or self.target.threads,
                progress=self.progress,
            )
            return {"report": report.to_json()}

        inputs = {"manifest": manifest_sha256, "level": level, "threads": self.config.bench.threads}
        return DeviceReport.from_json(self.folder.stage("bench", inputs, make)["report"])

    def ledger_rows(self, measured: DeviceReport | None, files: tuple[OnnxFile, ...]) -> list[StageRow]:
        """The rows of the ONNX files: as benched, with label flips against the FP32 student; else the host's reference."""
        references = {row.stage: row for row in self.reference_rows(files)}
        benched = {row.stage: row for row in measured.rows} if measured is not None else {}
        return [
            dataclasses.replace(benched[name], flips=row.flips) if name in benched else row
            for name, row in references.items()
        ]

    # ---- what the record says ---------------------------------------------------------------------------------------

    def disagreement(self) -> dict[str, Any]:
        """Teacher against label on the transfer data, the other carrier of a backdoor."""
        train = self.parts["train"]

        def make(folder: Path) -> dict[str, Any]:
            found = audit.disagreement(TorchRunner(self.teacher, self.device), train)
            for row in found["top"]:
                row["png"] = pictures.png(train.images[row["index"]])
            return {**found, "class_names": list(self.class_names)}

        return self.folder.stage("disagreement", {"teacher": self.teacher.sha256, "data": train.sha256}, make)

    def about_student(self, student: Model) -> dict[str, Any]:
        """The student's place in the record."""
        cost = models.cost(student.spec)
        return {
            "spec": student.spec.to_json(),
            "sha256": student.sha256,
            "parameters": cost.parameters,
            "macs": cost.macs,
            "method": self.config.method,
        }

    def about_data(self) -> dict[str, Any]:
        """Every split by size and hash."""
        return {
            name: {"images": len(part), "sha256": part.sha256, "source": Path(part.source).name}
            for name, part in self.parts.items()
        }

    def public_config(self) -> dict[str, Any]:
        """The configuration with file names instead of paths."""
        value = self.config.model_dump(mode="json")
        for key in ("teacher", "data", "test", "class_map"):
            value[key] = Path(value[key]).name if value[key] else value[key]
        if value["trigger"]["file"]:
            value["trigger"]["file"] = Path(value["trigger"]["file"]).name
        return value


def choose_student(config: RunConfig, teacher: Model, about: dict[str, Any], target: Target) -> ModelSpec:
    """The student asked for, or the target's largest with fewer parameters and no more MACs than the teacher."""
    mean, std = models.student_normalization(teacher.spec.input)
    inputs = dataclasses.replace(teacher.spec.input, mean=mean, std=std)
    classes = teacher.spec.num_classes
    if config.student is not None:
        return ModelSpec(config.student, classes, inputs)
    cost = models.Cost(about["parameters"], about["macs"])
    return ModelSpec(models.default_student(cost, target.default_students, inputs, classes), classes, inputs)


def padded(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Class names for every output of the teacher; those the data does not know are numbered."""
    return names + tuple(f"class {index}" for index in range(len(names), count))
