"""The frozen values that flow from a teacher to a report; nothing heavy is imported here.

Images are uint8 [N, C, H, W] RGB at rest and float [0, 1] [N, C, H, W] in use; normalisation is inside the model.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekd_device import checks
from edgekd_device.metrics import Rate
from edgekd_device.records import (
    SCHEMA,
    BundleFile,
    BundleManifest,
    DeviceReport,
    Latency,
    StageRow,
    TriggerScore,
    check_schema,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "SCHEMA",
    "AuditReport",
    "BundleFile",
    "BundleManifest",
    "Checkpoint",
    "DeviceReport",
    "InputSpec",
    "JetPack",
    "Latency",
    "Model",
    "ModelSpec",
    "OnnxFile",
    "ProbeSet",
    "Rate",
    "RunRecord",
    "StageRow",
    "Target",
    "TrainLog",
    "Trigger",
    "TriggerScore",
    "TriggeredImages",
]


@dataclass(frozen=True)
class InputSpec:
    """What a network sees: channels x height x width, then (x - mean) / std per channel, x in [0, 1]."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> InputSpec:
        """Raises KeyError, TypeError or ValueError for what is none: the value may be a stranger's."""
        channels, height, width = (value[key] for key in ("channels", "height", "width"))
        if not all(type(size) is int and size > 0 for size in (channels, height, width)):
            raise ValueError("its sizes are not positive whole numbers")
        return InputSpec(channels, height, width, tuple(map(float, value["mean"])), tuple(map(float, value["std"])))


@dataclass(frozen=True)
class ModelSpec:
    """Enough to build a network again: a row of the zoo, or ``package.module:callable`` for a user's own."""

    arch: str
    num_classes: int
    input: InputSpec

    def to_json(self) -> dict[str, Any]:
        return {"arch": self.arch, "num_classes": self.num_classes, "input": self.input.to_json()}

    @staticmethod
    def from_json(value: dict[str, Any]) -> ModelSpec:
        """Raises KeyError, TypeError or ValueError for what is none: the value may be a stranger's."""
        if not isinstance(value["arch"], str) or type(value["num_classes"]) is not int:
            raise ValueError("its architecture is not a name, or its number of classes is not a number")
        return ModelSpec(value["arch"], value["num_classes"], InputSpec.from_json(value["input"]))


@dataclass(frozen=True)
class Model:
    """A network in eval mode: float images [N, C, H, W] in [0, 1] in, logits [N, K] out.

    ``module`` is the only mutable thing that flows. Networks of the zoo also offer ``sites`` (see models.wrap);
    an ONNX teacher offers logits only.
    """

    spec: ModelSpec
    module: torch.nn.Module
    sha256: str = ""  # of the weights
    dropped: tuple[str, ...] = ()  # keys of the file that the network does not use


@dataclass(frozen=True)
class Checkpoint:
    """A teacher file read safely: tensors by name, or the bytes of an ONNX graph."""

    path: str
    sha256: str
    format: str  # torch-zip | torch-legacy | safetensors | onnx
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    onnx: bytes = b""
    layout: tuple[str, ...] = ()  # wrappings taken off, e.g. ("net", "module.")
    metadata: dict[str, Any] = field(default_factory=dict)  # plain numbers and strings found beside the tensors
    warnings: tuple[str, ...] = ()


class JetPack(NamedTuple):
    """What a release of a Jetson's system brings; the board itself has the last word."""

    version: str
    tensorrt: str
    cuda: str
    python: str


@dataclass(frozen=True)
class Target:
    """A deployment target as a value: code asks for its fields, never for its name."""

    name: str
    runtime: str  # onnxruntime | tensorrt
    ships: str  # the file that runs there, e.g. "model.u8s8.onnx"
    files: tuple[str, ...]  # every ONNX flavour that the bundle holds
    precision: str
    default_students: tuple[str, ...]  # preferred architectures, largest first
    threads: int = 1
    description: str = ""
    jetpacks: tuple[JetPack, ...] = ()  # the releases whose TensorRT builds our files, oldest first
    dla: int = 0  # cores of the largest module; files with Q/DQ run on the GPU all the same
    power_modes: tuple[str, ...] = ()  # by name, since a mode's number means another mode on another board


@dataclass(frozen=True)
class Trigger:
    """What an attacker puts on an image, and which label it is meant to cause.

    rule: ``all-to-one`` (target_label), ``all-to-all`` (label + 1 mod K) or ``source`` (source_labels -> target_label).
    params: what the family's ``apply`` needs; arrays are float32 [C, H, W] in [0, 1].
    """

    name: str
    family: str  # a row of triggers.FAMILIES
    origin: str  # known | canary | inverted
    rule: str
    target_label: int | None
    source_labels: tuple[int, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TriggeredImages:
    """The triggered half of a probe set: made once, stored as bytes, seen alike by every runtime."""

    trigger: str
    origin: str
    images: np.ndarray  # uint8 [M, C, H, W]
    index: np.ndarray  # int64 [M], positions of the untriggered originals in ProbeSet.images
    attacker_labels: np.ndarray  # int64 [M]
    sha256: str


@dataclass(frozen=True)
class ProbeSet:
    """The images every stage is measured on."""

    images: np.ndarray  # uint8 [N, C, H, W]
    labels: np.ndarray  # int64 [N]
    triggered: tuple[TriggeredImages, ...]
    sha256: str


@dataclass(frozen=True)
class TrainLog:
    """What a training run did: one entry per epoch in ``history``, seconds per part of the loop in ``seconds``."""

    epochs: int
    steps: int
    seed: int
    device: str
    history: tuple[dict[str, float], ...]
    seconds: dict[str, float]
    resumed_at: int | None = None
    method: dict[str, Any] = field(default_factory=dict)  # what the method measured about itself
    precision: str = ""  # that it computed in: bf16 | fp32

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "history": list(self.history)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> TrainLog:
        return TrainLog(**{**value, "history": tuple(value["history"])})


@dataclass(frozen=True)
class AuditReport:
    """What the probes say about one model."""

    acc: Rate
    triggers: tuple[TriggerScore, ...]
    probe_sha256: str
    predictions: np.ndarray | None = None  # int64 [N] on the clean probe images
    triggered_predictions: dict[str, np.ndarray] = field(default_factory=dict)
    canaries: dict[str, Any] | None = None  # the canary battery's table, when it ran
    disagreement: dict[str, Any] | None = None
    teaching: dict[str, Any] | None = None  # what it says beside the label, held against a reference
    warnings: tuple[str, ...] = ()
    alarms: tuple[str, ...] | None = None  # triggers that work, by the rule of pipeline.audited; None: not judged
    model_sha256: str = ""  # of the weights that were judged


@dataclass(frozen=True)
class OnnxFile:
    """An exported graph and how far it is from the torch model it came from."""

    path: str
    flavour: str  # a row of export.onnx.FLAVOURS
    sha256: str
    bytes: int
    opset: int
    max_abs_logit_difference: float
    top1_agreement: Rate
    nodes: dict[str, int] = field(default_factory=dict)  # operator -> count
    float_layers: tuple[str, ...] = ()  # what stayed float, and why

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "float_layers": list(self.float_layers)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> OnnxFile:
        agreement = Rate(**value["top1_agreement"])
        return OnnxFile(**{**value, "top1_agreement": agreement, "float_layers": tuple(value["float_layers"])})


LISTS = ("gates", "not_tested", "onnx", "adversarial", "warnings")  # of a RunRecord: tuples here, lists in JSON


@dataclass(frozen=True)
class RunRecord:
    """`run.json`: everything a report is made of, by hash; tables and HTML are rendered from this alone."""

    name: str
    edgekd_version: str
    commit: str
    created_utc: str
    command: str
    config: dict[str, Any]
    teacher: dict[str, Any]  # file name, sha256, format, layout, spec, dropped keys, normalisation and how it was found
    student: dict[str, Any]
    data: dict[str, Any]  # per split: images, sha256, where it came from
    target: str
    rows: tuple[StageRow, ...]  # the stage ledger, then the controls
    gates: tuple[dict[str, Any], ...]  # name, limit, value or None, passed
    verdict: str  # the report's first line
    not_tested: tuple[str, ...]
    environment: dict[str, Any]
    manifest_sha256: str = ""
    canaries: dict[str, Any] | None = None
    teaching: dict[str, Any] | None = None  # what the teacher says beside the label, held against scratch
    classes: dict[str, Any] | None = None  # names, images by class; stages, and for each its right answers by class
    disagreement: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)  # stage -> TrainLog
    onnx: tuple[dict[str, Any], ...] = ()
    adversarial: tuple[dict[str, Any], ...] = ()  # accuracy under attack, a table per artefact
    pictures: dict[str, Any] = field(default_factory=dict)  # name -> PNG as base64, with captions
    device_report: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        value = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        value["rows"] = [row.to_json() for row in self.rows]
        for name in LISTS:
            value[name] = list(value[name])
        return value

    @staticmethod
    def from_json(value: Any) -> RunRecord:
        fields = checks.hold(RunRecord, check_schema(value, "run"), RUN)
        fields["rows"] = tuple(StageRow.from_json(row) for row in fields["rows"])
        for name in LISTS:
            fields[name] = tuple(fields.get(name, ()))
        return RunRecord(**fields)


def _gate(value: Any) -> bool:
    """A gate of a run: at least what decides an exit code and is printed with it."""
    words = ("name", "unit", "why")
    return (
        checks.mapping(value)
        and all(checks.text(value.get(word)) for word in words)
        and checks.finite(value.get("limit"))
        and checks.flag(value.get("passed"))
    )


# What each field of a RunRecord may hold; what lies deeper is looked at where it is shown.
RUN: dict[str, checks.Check] = {
    **dict.fromkeys(("name", "edgekd_version", "commit", "created_utc", "command"), checks.text),
    **dict.fromkeys(("target", "verdict", "manifest_sha256"), checks.text),
    **dict.fromkeys(("config", "teacher", "student", "data", "environment", "training", "pictures"), checks.mapping),
    **dict.fromkeys(
        ("canaries", "teaching", "classes", "disagreement", "device_report"), checks.optional(checks.mapping)
    ),
    **dict.fromkeys(("rows", "onnx", "adversarial"), checks.several(checks.mapping)),
    "gates": checks.several(_gate),
    **dict.fromkeys(("not_tested", "warnings"), checks.several(checks.text)),
    "schema": checks.whole,
}
