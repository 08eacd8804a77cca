"""The run's configuration: one frozen value, from defaults, a profile, a YAML file, flags and dotted overrides.

Later sources win: profile < ``-c run.yaml`` < flags < ``-o section.key=value``. Unknown keys are errors with a
suggestion. Environment variables are never read into it, so that secrets cannot reach a record.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from .attacks.run import attack_class, settings_of
from .attacks.table import SABOTAGE
from .datafree.run import named_source, source_class
from .distill import METHODS, AbdSettings
from .distill.run import method_class
from .errors import UsageError, nearest
from .given import DERIVED, given_settings, shortened
from .quantize import PtqConfig
from .repair.run import repair_class
from .training import Fraction, TrainConfig

CONTROLS = ("scratch", "kd", "overhaul", "finetune")
NO_DATA = "none"
NEEDS_NO_DATA = ("kd", "overhaul")  # controls that learn from the teacher alone

PROFILES: dict[str, dict[str, Any]] = {
    # CIFAR-10 on two cores within 15 minutes, with a known trigger; 2,500 images are shown 40 times.
    "fast": {
        "train": {"epochs": 10, "least_shown": 100_000, "schedule": "onecycle", "lr": 0.2},
        "robustkd": {"lambda_f": "auto", "detox_steps": 300},
    },
    # Our long schedule; RobustKD's own code trains 300 epochs at batch 64, its rate falling in two steps.
    "full": {
        "train": {"epochs": 200, "schedule": "cosine", "lr": 0.1, "warmup_epochs": 5},
        "robustkd": {
            "lambda_f": "auto",
            "granularity": "chw",
            "detox_steps": 2000,
            "detox_epochs": 20,
            "detox_lr": 0.01,
        },
    },
}

# Settings that follow another one unless they are set.
FOLLOWING = {"quantize.seed": "seed"}


class Section(BaseModel):
    """A frozen group of settings that knows no key but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TriggerSection(Section):
    """A trigger that the user knows; without one the canary battery runs. The triggers' own reader judges the values."""

    file: str | None = Field(None, description="trigger file: .npz with a and b, PNG patch, picture, or YAML list")
    target_label: int | None = Field(None, description="label that the trigger is meant to cause")
    rule: str = Field("all-to-one", description="which labels change, how: all-to-one, all-to-all or source")
    source_labels: tuple[int, ...] = Field((), description="labels that a source-specific trigger acts on")
    position: str | tuple[int, ...] | None = Field(
        None, description="where a picture goes as a patch: [row, column] or a corner"
    )
    opacity: float | None = Field(
        None,
        allow_inf_nan=True,
        description="opacity of a picture; without a position it is blended over the whole image",
    )


class GateSection(Section):
    """Limits that turn the ledger into an exit code; a limit on something not measured fails."""

    max_asr: float | None = Field(
        None, ge=0, le=100, description="limit on the worst trigger's ASR above its floor, in percent"
    )
    max_acc_drop: float | None = Field(
        None,
        ge=0,
        le=100,
        description="limit on the ACC lost since the teacher, in points; INT8 alone may not cost more",
    )
    max_latency_ms: float | None = Field(
        None, gt=0, description="limit on the median latency (p50) of the artefact that ships"
    )


class BenchSection(Section):
    """How the bundle is measured on this machine."""

    level: Literal["smoke", "standard", "official", "none"] = Field(
        "smoke",
        description="how long to measure: smoke (seconds), standard (minutes), official (half an hour a file) or none",
    )
    threads: int | None = Field(None, ge=1, le=256, description="threads of the runtime; default: the target's")


class AuditSection(Section):
    """What is probed beside a known trigger."""

    canaries: bool | None = Field(None, description="run the canary battery; default: only without a known trigger")
    canary_images: int = Field(2000, ge=50, description="images per canary trigger")
    bundle_canaries: int = Field(
        3, ge=0, le=20, description="how many of the teacher's worst canaries travel in the bundle"
    )
    adversarial: Literal["smoke", "quick", "standard", "full"] | None = Field(
        None, description="attack by small changes of every pixel: smoke, quick, standard or full; default: not at all"
    )
    eps: Fraction = Field(
        8 / 255, gt=0, le=1, description="largest change of a pixel in that attack, in [0, 1]: 8/255, 0.03"
    )
    adversarial_images: int | None = Field(None, ge=1, description="number of images to attack; default: the tier's")
    inversion_steps: int = Field(250, ge=20, description="steps of the search for each class's smallest patch")


class RunConfig(Section):
    """Everything that decides what a run does; stored whole in the run folder and in the record."""

    teacher: str = Field(description="teacher file")
    data: str = Field(description="training images; none: they come from `source`")
    test: str | None = Field(None, description="test images; default: a seeded 80/10/10 split of the data")
    arch: str | None = Field(None, description="teacher's architecture, if the file does not tell it")
    normalize: str = Field("auto", description="teacher's input normalisation: auto, a preset, or mean/std")
    num_classes: int | None = Field(
        None, ge=2, description="number of the teacher's classes, if the file does not tell it"
    )
    class_map: str | None = Field(None, description="YAML: class of the data -> label of the teacher")
    image_size: int | None = Field(None, ge=8, le=1024, description="side in pixels that folder images are resized to")
    channels: Literal[1, 3] | None = Field(None, description="channels that images are converted to")
    target: str = Field("cpu", description="deployment target; see `edgekd list targets`")
    student: str | None = Field(
        None, description="student's architecture; default: the largest that is smaller than the teacher"
    )
    profile: Literal["fast", "full"] = Field("fast", description="length of the schedule")
    controls: tuple[Literal["scratch", "kd", "overhaul", "finetune"], ...] = Field(
        ("scratch",), description="networks trained beside the student at equal budget; scratch gives the ASR floor"
    )
    reference: str | None = Field(
        None, description="without training images: a network that no attacker touched, which gives the ASR floor"
    )
    reference_arch: str | None = Field(None, description="architecture of the reference, if the file does not tell it")
    seed: int = Field(0, ge=0, lt=2**31, description="seed that every random choice derives from")
    device: str = Field("auto", description="cpu, cuda, or auto")
    trigger: TriggerSection = TriggerSection()
    train: TrainConfig
    repair: dict[str, Any] = Field({}, description="repair of the teacher before it is distilled; empty: none")
    distill: dict[str, Any] = Field(description="method, and the method's own settings")
    source: dict[str, Any] = Field({}, description="source of images for a run without data; empty: the data")
    abd: dict[str, Any] = Field({}, description="defence of a distillation without data")
    quantize: PtqConfig = PtqConfig()
    bench: BenchSection = BenchSection()
    audit: AuditSection = AuditSection()
    gates: GateSection = GateSection()

    @field_validator("controls")
    @classmethod
    def _scratch_gives_the_floor(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("data") == NO_DATA:  # nobody knows a label that is not the teacher's
            wrong = [name for name in value if name not in NEEDS_NO_DATA]
            if wrong and value != ("scratch",):
                raise ValueError(f"{wrong[0]} needs labelled images; without data there are {', '.join(NEEDS_NO_DATA)}")
            return tuple(name for name in value if name in NEEDS_NO_DATA)
        return value if "scratch" in value else ("scratch", *value)

    @model_validator(mode="after")
    def _reference_stands_in_for_scratch(self) -> RunConfig:
        if self.reference_arch is not None and self.reference is None:
            raise ValueError("reference_arch is the architecture of a reference, and no reference was given")
        if self.reference is not None and not self.data_free:
            raise ValueError(
                "with training images the scratch student gives the floor; a reference is only for a run without "
                "them (data: none)"
            )
        if self.reference is not None and self.test is None:
            raise ValueError("a reference is measured on labelled images: give some as test")
        return self

    @property
    def method(self) -> str:
        return str(self.distill["method"])

    @property
    def repair_method(self) -> str | None:
        """How the teacher is repaired before the run's method distils it; controls have it as it is."""
        return self.repair.get("method")

    @property
    def data_free(self) -> bool:
        """Whether images come from a source."""
        return self.data == NO_DATA

    @property
    def source_options(self) -> dict[str, Any]:
        return {key: value for key, value in self.source.items() if key != "name"}

    @property
    def defence(self) -> AbdSettings:
        """How a distillation without data is defended."""
        return AbdSettings.model_validate(self.abd)

    @property
    def repair_options(self) -> dict[str, Any]:
        return {key: value for key, value in self.repair.items() if key != "method"}

    def options(self, method: str) -> dict[str, Any]:
        """Settings of the run's method, or of a control: the run's own where the method builds on it, else defaults."""
        given = {key: value for key, value in self.distill.items() if key != "method"}
        if method == self.method:
            return given
        kind = method_config(method)
        base = issubclass(method_config(self.method), kind)
        shared = {key: value for key, value in given.items() if base and key in kind.model_fields}
        return kind.model_validate(shared).model_dump(mode="json")


class GoalSection(Section):
    """What the attacker's trigger is to cause."""

    target_label: int | None = Field(None, ge=0, description="the attacker's label; default: 0, none for all-to-all")
    rule: str = Field("all-to-one", description="which labels change, how: all-to-one, all-to-all or source")
    source_labels: tuple[int, ...] = Field((), description="labels that a source-specific trigger acts on")


class AttackConfig(Section):
    """Everything that decides how a teacher is backdoored; names are those of RunConfig where they mean the same."""

    teacher: str = Field("", description="clean network to train on; default: fresh weights of arch")
    data: str = Field(description="training images")
    test: str | None = Field(None, description="test images; default: a seeded 80/10/10 split of the data")
    arch: str | None = Field(None, description="architecture; default: that of the network to train on, else wrn-16-1")
    normalize: str = Field("auto", description="input normalisation of the network to train on; see RunConfig")
    num_classes: int | None = Field(None, ge=2, description="number of classes of the network to train on")
    class_map: str | None = Field(None, description="YAML: class of the data -> label")
    image_size: int | None = Field(None, ge=8, le=1024, description="side in pixels that folder images are resized to")
    channels: Literal[1, 3] | None = Field(None, description="channels that images are converted to")
    seed: int = Field(0, ge=0, lt=2**31, description="seed that every random choice derives from")
    device: str = Field("auto", description="cpu, cuda, or auto")
    goal: GoalSection = GoalSection()
    train: TrainConfig
    attack: dict[str, Any] = Field(description="name, and the attack's own settings")

    @property
    def name(self) -> str:
        return str(self.attack["name"])

    @property
    def options(self) -> dict[str, Any]:
        return {key: value for key, value in self.attack.items() if key != "name"}


# Settings of runs and attacks that are places of files.
FILES = ("teacher", "data", "test", "class_map", "reference", "trigger.file", "source.image")
# Training a poisoned network: from fresh weights, and from a clean network.
ATTACK_TRAINING = {
    False: {"epochs": 10, "schedule": "onecycle", "lr": 0.2},
    True: {"epochs": 4, "schedule": "cosine", "lr": 0.02},
}


def method_config(name: str) -> type[BaseModel]:
    """The settings class of a distillation method; raises UsageError with a suggestion for an unknown name."""
    return method_class(name).Config


def resolve(file: str | Path | None, flags: dict[str, Any], overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """The configuration of a run.

    file: YAML with the same keys. flags: dotted keys from the command line, None = not given. overrides: ``key=value``.
    Raises UsageError naming the key, with the nearest known one.
    """
    given = given_settings(file, flags, overrides)
    profile = given.get("profile", "fast")
    if not isinstance(profile, str) or profile not in PROFILES:
        raise UsageError(f"There is no profile {shortened(profile)}: choose fast or full.")
    preset, source, abd = _without_data(given, profile)
    distill = given.get("distill", {})
    if isinstance(distill, str):
        distill = {"method": distill}
    if not isinstance(distill, dict):
        raise UsageError("`distill` is a group of settings: write distill.method=robustkd, distill.temperature=4.")
    method = str(distill.get("method", "kd" if source else "robustkd"))
    config = method_config(method)
    options = _validate(
        config, {**preset.get(method, {}), **{k: v for k, v in distill.items() if k != "method"}}, "distill."
    )
    repair = _repair(given.get("repair", {}))
    train = given.get("train", {})
    if not isinstance(train, dict):
        raise UsageError("`train` is a group of settings: write train.epochs=20.")
    shared = {"seed": given.get("seed", 0), "device": given.get("device", "auto")}
    train = _meant(train, overrides)
    merged = {**given, "train": {**preset["train"], **train, **shared}}
    quantize = given.get("quantize", {})
    if isinstance(quantize, dict):  # else the validation says so
        merged["quantize"] = {"seed": shared["seed"], **quantize}
    for key in ("teacher", "data"):
        if not merged.get(key):
            raise UsageError(f"No {key} was given: name it on the command line, or as `{key}:` in the file of -c.")
    merged["distill"] = {"method": method, **options.model_dump(mode="json")}
    merged |= {"repair": repair, "source": source, "abd": abd}
    if source:
        merged.setdefault("controls", ())
    value = _validate(RunConfig, merged, "")
    assert isinstance(value, RunConfig)
    if source and value.train.least_shown:
        raise UsageError(
            "train.least_shown needs images of your own: without data the source sets the length. Leave it out."
        )
    if source and value.quantize.qad.ce_weight:
        raise UsageError("quantize.qad.ce_weight needs images with labels of their own: without data it must be 0.")
    return value


def _meant(train: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A number of epochs that was asked for is meant, also beside the ``least_shown`` that a run wrote into its file."""
    asked = {override.partition("=")[0].strip() for override in overrides}
    if "train.epochs" in asked and "train.least_shown" not in asked:
        return {**train, "least_shown": 0}
    return {"least_shown": 0, **train} if "epochs" in train else train


def _without_data(given: dict[str, Any], profile: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The profile's presets, the source and the defence; the last two are empty where there is data."""
    source, preset = named_source(given.get("source", {})), PROFILES[profile]
    if given.get("data") != NO_DATA:
        for key in ("source", "abd"):
            if given.get(key):
                raise UsageError(
                    f"`{key}` is for a teacher without training images: give --data none with it, or leave it out."
                )
        return preset, {}, {}
    name = str(source.get("name", "patches"))
    kind = source_class(name)
    if "image" in source and "image" not in kind.Config.model_fields:
        raise UsageError(
            f"Only the source `patches` takes a picture: --source patches:{shortened(source['image'])[1:-1]}."
        )
    own = kind.presets[profile]
    train, usual = given.get("train", {}), TrainConfig.model_validate({"epochs": 1, **own.get("train", {})}).augment
    if isinstance(train, dict) and train.get("augment", usual) != usual:
        raise UsageError(
            f"train.augment does nothing without data: the source {name!r} makes its images ready to use. Leave it out."
        )
    options = {**own.get("source", {}), **{key: value for key, value in source.items() if key != "name"}}
    abd = given.get("abd") or {}
    if not isinstance(abd, dict):
        raise UsageError("`abd` is a group of settings: write abd.vaccine=false, abd.retrospect.steps=200.")
    return (
        {**preset, **own},
        {"name": name, **_validate(kind.Config, options, "source.").model_dump(mode="json")},
        _validate(AbdSettings, abd, "abd.").model_dump(mode="json"),
    )


def _repair(given: Any) -> dict[str, Any]:
    """``repair``, a name or a group of settings, with every setting of that repair; empty: none is wanted."""
    if isinstance(given, str):
        given = {"method": given}
    if given is None or given == {}:
        return {}
    if not isinstance(given, dict):
        raise UsageError("`repair` is a group of settings: write repair.method=ft-sam, repair.epochs=20.")
    if "method" not in given:
        raise UsageError(
            "repair.method is missing: name a repair (`edgekd list repairs`), or leave out the other repair settings."
        )
    name = str(given["method"])
    kind = repair_class(name).Config
    options = _validate(kind, {key: value for key, value in given.items() if key != "method"}, "repair.")
    return {"method": name, **options.model_dump(mode="json")}


def resolve_attack(
    file: str | Path | None, flags: dict[str, Any], overrides: list[str] | tuple[str, ...] = ()
) -> AttackConfig:
    """The configuration of an attack; as ``resolve``, with the settings of the attack under ``attack.``."""
    given = given_settings(file, flags, overrides)
    attack, train = given.get("attack", {}), given.get("train", {})
    if not isinstance(attack, dict) or not isinstance(train, dict):
        raise UsageError("`attack` and `train` are groups of settings: write attack.rate=0.05, train.epochs=4.")
    name = str(attack.get("name", ""))
    options = _validate(settings_of(name), {key: value for key, value in attack.items() if key != "name"}, "attack.")
    shared = {"seed": given.get("seed", 0), "device": given.get("device", "auto")}
    fresh = name in SABOTAGE and getattr(options, "fresh", False)  # whose --start is what it is driven away from
    begun = bool(given.get("teacher")) and not fresh  # from a clean network
    preset = dict(ATTACK_TRAINING[begun])
    if begun and name not in SABOTAGE:
        preset["epochs"] = attack_class(name).epochs
    goal = given.get("goal", {})
    if name in SABOTAGE:
        if goal:
            raise UsageError(f"The attack {name!r} has no trigger: leave out target label, rule and source labels.")
    elif isinstance(goal, dict) and goal.get("rule") != "all-to-all":
        given = {**given, "goal": {"target_label": 0, **goal}}
    merged = {
        **given,
        "train": {**preset, **train, **shared},
        "attack": {"name": name, **options.model_dump(mode="json")},
    }
    if not merged.get("data"):
        raise UsageError("No data was given: name it with --data, or as `data:` in the file of -c.")
    value = _validate(AttackConfig, merged, "")
    assert isinstance(value, AttackConfig)
    return value


def settings(config: type[BaseModel], prefix: str = "") -> list[tuple[str, Any, str]]:
    """(dotted key, default, what it is) of every setting of a class; a default of None is "not set"."""
    found: list[tuple[str, Any, str]] = []
    for name, field in config.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += settings(inner, f"{prefix}{name}.")
        else:
            default = None if field.is_required() else field.get_default()
            found.append((prefix + name, default, field.description or ""))
    return found


def keys(config: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a settings class."""
    return [key for key, _, _ in settings(config, prefix)]


def public(config: RunConfig | AttackConfig) -> dict[str, Any]:
    """The settings as a record holds them: with the names of files instead of their places."""
    value: dict[str, Any] = config.model_dump(mode="json")
    for key in FILES:
        section, _, name = key.rpartition(".")
        place = value.get(section, {}) if section else value
        if place.get(name):
            place[name] = Path(place[name]).name
    return value


def changed(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys in which two stored configurations differ."""
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(new, dict) and old is None:
            old = {}  # written before there was such a section
        if isinstance(old, dict) and isinstance(new, dict):
            found += changed(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(prefix + key)
    return found


def _validate(config: type[BaseModel], values: dict[str, Any], prefix: str) -> BaseModel:
    try:
        return config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = prefix + ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            others = [name for name in METHODS if prefix == "distill." and key in keys(method_config(name), prefix)]
            if others:
                raise UsageError(f"{key} is a setting of {', '.join(others)}, not of the chosen method.") from None
            bare = key.removeprefix("distill.")  # whose common part would make all keys look alike
            if prefix == "distill." and nearest(bare, keys(config), 0.75) is None:
                for name in METHODS:
                    near = nearest(bare, keys(method_config(name)), 0.75)
                    if near is not None:
                        raise UsageError(
                            f"There is no setting {shortened(key)} (did you mean {near!r} of the method {name}?)."
                        ) from None
            sections = {name.rpartition(".")[0] for name in keys(config, prefix) if "." in name}
            near = nearest(key, [*keys(config, prefix), *sections])
            hint = "" if near is None else f" (did you mean {near!r}?)"
            raise UsageError(f"There is no setting {shortened(key)}{hint}; see `edgekd list settings`.") from None
        reason = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise UsageError(f"The settings {prefix}* do not fit together: {reason}.") from None
        whole, _, choice = key.rpartition(".")
        if not choice.isdigit() and whole in keys(config, prefix):  # which of several types it is not
            key = whole
        raise UsageError(
            f"The setting {DERIVED.get(key, key)} = {shortened(first.get('input'))} does not fit: "
            f"{reason[0].lower() + reason[1:]}."
        ) from None
