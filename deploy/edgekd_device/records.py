"""The records that leave the board: what a bundle holds, what was measured on it, one row of the stage ledger.

Rates are counts (`metrics.Rate`); every other number carries its unit in its name. ``None`` means "not measured".
What is read may be anybody's: each ``from_json`` raises UsageError naming the field that is wrong. ``at``: where in the
whole record it stands.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from . import checks
from .errors import UsageError
from .metrics import Rate

SCHEMA = 1
ORIGINS = ("known", "canary", "inverted")
KINDS = ("stage", "control")
VERDICTS = ("passed", "warning", "failed", "not measured")


def check_schema(value: Any, what: str) -> dict[str, Any]:
    """Return ``value`` if it is a record of this schema or the one before; raise UsageError otherwise."""
    if not isinstance(value, dict) or not isinstance(value.get("schema"), int):
        raise UsageError(f"This is not a {what} record: it has no schema number.")
    if value["schema"] > SCHEMA:
        raise UsageError(
            "This {} has schema {}, newer than the {} that this version reads. Upgrade edgekd.".format(
                what, value["schema"], SCHEMA
            )
        )
    return value


@dataclass(frozen=True)
class TriggerScore:
    """How one model behaves on one trigger.

    asr, ra: over triggered images not already of the attacker's class. untriggered: the same images without trigger,
    called the attacker's class. floor: ASR of the run's unattacked control on the same bytes.
    """

    trigger: str
    origin: str  # known | canary | inverted
    asr: Rate
    ra: Rate
    untriggered: Rate | None = None
    floor: Rate | None = None

    @property
    def excess(self) -> float | None:
        """ASR - asr_floor, a fraction; None when the floor was not measured."""
        return None if self.floor is None else self.asr.value - self.floor.value

    @property
    def raised(self) -> float:
        """ASR above its floor, or where none was measured above the untriggered rate, or else above 0; a fraction."""
        base = self.floor if self.floor is not None else self.untriggered
        return self.asr.value - (base.value if base is not None and base.total else 0.0)

    def to_json(self) -> dict[str, Any]:
        return {
            "trigger": self.trigger,
            "origin": self.origin,
            "asr": self.asr.to_json(),
            "ra": self.ra.to_json(),
            "untriggered": None if self.untriggered is None else self.untriggered.to_json(),
            "floor": None if self.floor is None else self.floor.to_json(),
        }

    @staticmethod
    def from_json(value: Any, at: str = "") -> TriggerScore:
        fields = checks.hold(TriggerScore, value, SCORE, at)
        for name in ("asr", "ra", "untriggered", "floor"):
            fields[name] = Rate.from_json(fields.get(name))
        return TriggerScore(**fields)


@dataclass(frozen=True)
class Latency:
    """Time of one query of ``batch`` images, end to end, from input in host memory to output in host memory."""

    batch: int
    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float | None
    mean_ms: float
    min_ms: float
    max_ms: float
    p50_interval_ms: tuple[float, float] | None = None
    block_p50_ms: tuple[float, ...] = ()
    level: str = "smoke"
    threads: int = 1
    valid: bool = True
    notes: tuple[str, ...] = ()
    p999_ms: float | None = None
    p90_bound_ms: float | None = None  # early-stopping upper bounds, 99 % confidence, as MLPerf LoadGen reports them
    p99_bound_ms: float | None = None
    over_twice_p50: int = 0  # slow outliers, counted and kept
    lag1: float | None = None  # autocorrelation: the effective n is about n (1 - r) / (1 + r)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(value: Any, at: str = "") -> Latency | None:
        if value is None:
            return None
        fields = checks.hold(Latency, value, LATENCY, at)
        for name in ("p50_interval_ms", "block_p50_ms", "notes"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        return Latency(**fields)


@dataclass(frozen=True)
class StageRow:
    """One row of the stage ledger: what one artefact, from the teacher to the engine, was measured to be."""

    stage: str  # teacher | student fp32 | onnx fp32 | onnx int8 | engine | a control's name
    kind: str  # "stage" or "control"
    runtime: str  # torch | onnxruntime | tensorrt
    precision: str  # fp32 | fp16 | int8
    sha256: str
    acc: Rate | None = None
    triggers: tuple[TriggerScore, ...] = ()
    flips: Rate | None = None  # label flips on clean images against the stage before
    size_bytes: int | None = None
    parameters: int | None = None
    macs: int | None = None
    latency: Latency | None = None
    energy_mj: float | None = None
    seconds: float | None = None  # time it took to make this artefact
    notes: tuple[str, ...] = ()
    gpu: Latency | None = None  # the GPU's own time of one inference, by its events, without copies
    engine: dict[str, Any] | None = None  # what was built of the file: plan_sha256, tensorrt, gpu, typing, layers, ...
    agreement: Rate | None = None  # clean images to which the host gave the same answer by the same file

    def to_json(self) -> dict[str, Any]:
        value = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        value["acc"] = None if self.acc is None else self.acc.to_json()
        value["flips"] = None if self.flips is None else self.flips.to_json()
        value["latency"] = None if self.latency is None else self.latency.to_json()
        value["gpu"] = None if self.gpu is None else self.gpu.to_json()
        value["triggers"] = [score.to_json() for score in self.triggers]
        value["notes"] = list(self.notes)
        if self.agreement is None:  # as it was before it was counted, which readers of then would refuse
            del value["agreement"]
        else:
            value["agreement"] = self.agreement.to_json()
        return value

    @staticmethod
    def from_json(value: Any, at: str = "") -> StageRow:
        fields = checks.hold(StageRow, value, ROW, at)
        scores = enumerate(fields.get("triggers", ()))
        for name in ("acc", "flips", "agreement"):
            fields[name] = Rate.from_json(fields.get(name))
        fields["latency"] = Latency.from_json(fields.get("latency"), at + "latency.")
        fields["gpu"] = Latency.from_json(fields.get("gpu"), at + "gpu.")
        fields["triggers"] = tuple(TriggerScore.from_json(score, f"{at}triggers[{k}].") for k, score in scores)
        fields["notes"] = tuple(fields.get("notes", ()))
        return StageRow(**fields)


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class BundleManifest:
    """`manifest.json`: the contract between host and board. The bundle holds these files and no other."""

    edgekd_version: str
    target: str
    runtime: str  # onnxruntime | tensorrt
    model: str  # the file that ships, e.g. model.u8s8.onnx
    precision: str
    input_shape: tuple[int, int, int]  # channels, height, width
    num_classes: int
    class_names: tuple[str, ...]
    teacher_sha256: str
    student_sha256: str
    files: tuple[BundleFile, ...]
    triggers: tuple[dict[str, str], ...] = ()  # name, origin; images and labels stand in probe.npz
    floors: dict[str, dict[str, int]] = dataclasses.field(
        default_factory=dict
    )  # trigger -> Rate of the scratch control
    references: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)  # model file -> host's StageRow
    threads: int = 1  # of the runtime on the target
    labelled: bool = True  # false: the probes' labels are the teacher's answers, and measure no ACC
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        value = dataclasses.asdict(self)
        if self.labelled:  # as it was before there was another kind, which readers of then would refuse
            del value["labelled"]
        return value

    @staticmethod
    def from_json(value: Any) -> BundleManifest:
        fields = dict(check_schema(value, "bundle manifest"))
        try:
            fields["input_shape"] = tuple(int(v) for v in fields["input_shape"])
            fields["class_names"] = tuple(str(v) for v in fields["class_names"])
            fields["files"] = tuple(
                BundleFile(str(v["name"]), int(v["bytes"]), str(v["sha256"])) for v in fields["files"]
            )
            fields["triggers"] = tuple(dict(v) for v in fields.get("triggers", ()))
            return BundleManifest(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"The bundle's manifest is not one that edgekd wrote: {error}.") from error


@dataclass(frozen=True)
class Gate:
    """Whether the machine was fit to be timed, in one respect; a failed gate makes the report invalid."""

    name: str
    limit: str
    verdict: str  # passed | warning | failed | not measured
    found: str  # what was read, or why nothing was

    @staticmethod
    def from_json(value: Any, at: str = "") -> Gate:
        return Gate(**checks.hold(Gate, value, GATE, at))


@dataclass(frozen=True)
class DeviceReport:
    """What `edgekd-device run` measured: latency, ACC and ASR of each model file, all from one session.

    throughput, multistream and power are those of the file that ships. What the level did not ask for is empty.
    """

    manifest_sha256: str
    level: str  # smoke | standard | official
    valid: bool
    invalid_reasons: tuple[str, ...]
    rows: tuple[StageRow, ...]  # one per model file that was run
    environment: dict[str, Any]
    cold_start_ms: dict[str, float] = dataclasses.field(default_factory=dict)
    throughput: tuple[dict[str, float], ...] = ()
    power: dict[str, Any] | None = None
    edgekd_version: str = ""
    multistream: Latency | None = None  # queries of 8 images; its p99_bound_ms is what MLPerf reports
    thermal: dict[str, Any] | None = None  # heat soak, temperatures around each timed stretch
    gates: tuple[Gate, ...] = ()
    raw_times: dict[str, str] | None = None  # file beside the report, and its sha256
    stage: str | None = None  # the model file that throughput, multistream and power are of
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        value = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        rows: list[dict[str, Any]] = [row.to_json() for row in self.rows]
        value["rows"] = rows
        value["multistream"] = None if self.multistream is None else self.multistream.to_json()
        value["gates"] = [dataclasses.asdict(gate) for gate in self.gates]
        return value

    @staticmethod
    def from_json(value: Any) -> DeviceReport:
        fields = checks.hold(DeviceReport, check_schema(value, "device report"), REPORT)
        rows, gates = enumerate(fields["rows"]), enumerate(fields.get("gates", ()))
        fields["rows"] = tuple(StageRow.from_json(row, f"rows[{k}].") for k, row in rows)
        fields["invalid_reasons"] = tuple(fields["invalid_reasons"])
        fields["throughput"] = tuple(fields.get("throughput", ()))
        fields["multistream"] = Latency.from_json(fields.get("multistream"), "multistream.")
        fields["gates"] = tuple(Gate.from_json(gate, f"gates[{k}].") for k, gate in gates)
        return DeviceReport(**fields)


# What each field may hold; what is a record itself is checked by its own ``from_json``.
SCORE: dict[str, checks.Check] = {
    "trigger": checks.text,
    "origin": lambda value: value in ORIGINS,
    "asr": checks.rate,
    "ra": checks.rate,
    "untriggered": checks.optional(checks.rate),
    "floor": checks.optional(checks.rate),
}
LATENCY: dict[str, checks.Check] = {
    **dict.fromkeys(("batch", "count"), checks.positive),
    **dict.fromkeys(("p50_ms", "p90_ms", "mean_ms", "min_ms", "max_ms"), checks.amount),
    **dict.fromkeys(("p99_ms", "p999_ms", "p90_bound_ms", "p99_bound_ms"), checks.optional(checks.amount)),
    "p50_interval_ms": checks.optional(checks.several(checks.finite, 2)),  # of few blocks far apart: it reaches below 0
    "block_p50_ms": checks.several(checks.amount),
    "level": checks.text,
    **dict.fromkeys(("threads", "over_twice_p50"), checks.whole),
    "valid": checks.flag,
    "notes": checks.several(checks.text),
    "lag1": checks.optional(checks.finite),
}
ROW: dict[str, checks.Check] = {
    **dict.fromkeys(("stage", "runtime", "precision", "sha256"), checks.text),
    "kind": lambda value: value in KINDS,
    **dict.fromkeys(("acc", "flips", "agreement"), checks.optional(checks.rate)),
    "triggers": checks.several(checks.mapping),
    **dict.fromkeys(("size_bytes", "parameters", "macs"), checks.optional(checks.whole)),
    **dict.fromkeys(("latency", "gpu", "engine"), checks.optional(checks.mapping)),
    **dict.fromkeys(("energy_mj", "seconds"), checks.optional(checks.finite)),
    "notes": checks.several(checks.text),
}
GATE: dict[str, checks.Check] = {
    **dict.fromkeys(("name", "limit", "found"), checks.text),
    "verdict": lambda value: value in VERDICTS,
}
REPORT: dict[str, checks.Check] = {
    **dict.fromkeys(("manifest_sha256", "level", "edgekd_version"), checks.text),
    "valid": checks.flag,
    "invalid_reasons": checks.several(checks.text),
    **dict.fromkeys(("rows", "gates"), checks.several(checks.mapping)),
    "environment": checks.mapping,
    "cold_start_ms": checks.named(checks.amount),
    "throughput": checks.several(checks.named(checks.amount)),
    **dict.fromkeys(("power", "multistream", "thermal"), checks.optional(checks.mapping)),
    "raw_times": checks.optional(checks.named(checks.text)),
    "stage": checks.optional(checks.text),
    "schema": checks.whole,
}
