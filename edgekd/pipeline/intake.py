"""What a run starts from: the images, split, and the teacher, recognised and normalised."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekd_device import metrics

from .. import checkpoints, data, models, triggers
from ..config import AttackConfig, RunConfig
from ..data import ImageSet
from ..errors import UnsafeInput, UsageError
from ..runners.torch import TorchRunner
from ..types import Checkpoint, Model, ModelSpec, Rate, Trigger
from ..yaml_files import read_yaml

Inputs = RunConfig | AttackConfig  # what says which images and which network to read
Given = str | tuple[tuple[float, ...], tuple[float, ...]]  # a normalisation: a preset's name, or mean and std

# Within this share of the way from chance to perfect, labels or normalisation are wrong rather than the teacher weak.
NEAR_CHANCE = 0.1
LOOKED_AT = 2000  # validation images, each class in proportion
USUAL_SIDE = 32  # of an ONNX teacher's images where nothing says another


def load_data(config: Inputs) -> dict[str, ImageSet]:
    """train, validation and test images; a seeded split where there is no test set, given or beside the training images.

    Without data only what ``test`` names.
    """
    if isinstance(config, RunConfig) and config.data_free:
        return {} if config.test is None else {"test": load_images(config, config.test, "test")}
    images = load_images(config, config.data, "train")
    if without_test(config):
        return data.split(images, config.seed)
    test = load_images(config, config.test or config.data, "test")
    if test.shape != images.shape:
        raise UsageError(
            f"Training images are {images.shape}, but test images {test.shape} (C, H, W). Convert both to one "
            "size with --image-size and --channels."
        )
    for label, (here, there) in enumerate(zip(images.class_names, test.class_names, strict=False)):
        if not _same_class(here, there, label):
            raise UsageError(
                f"The class {here!r} of the training images has the label of the class {there!r} of the test images. "
                "Both must hold the same classes in the same order: check whether one is missing."
            )
    parts = data.split(images, config.seed, {"train": 0.9, "validation": 0.1})
    return {**parts, "test": test}


def without_test(config: Inputs) -> bool:
    """Whether the test images have to be cut from the training images: none are given, nor stand beside those."""
    return config.test is None and "test" not in data.parts(config.data)


def flattered(config: Inputs) -> list[str]:
    """A warning where the test images are not known to be new to the teacher."""
    if isinstance(config, RunConfig) and config.data_free:
        return []
    if not data.parts(config.data) or not without_test(config):  # nothing there: another sentence says so
        return []
    return [
        "The test images were cut from --data. If the teacher was trained on them, its ACC is flattered, and "
        "the drop to the student looks too large. Give images that it has not seen with --test."
    ]


def shown_often(config: RunConfig, images: int) -> list[str]:
    """What is told where few training images are shown more often than ``train.epochs`` says."""
    epochs = config.train.of(images).epochs
    often = f"{images:,} training images are few, so they are shown {epochs} times (train.least_shown)."
    return [often] if epochs > config.train.epochs else []


def _same_class(here: str, there: str, label: int) -> bool:
    """Whether two sets mean one class by a label; data without names calls it by its number."""
    if here.isdecimal() and there.isdecimal():
        return int(here) == int(there)
    return here == there or str(label) in (here, there)


def load_images(config: Inputs, path: str, part: Literal["train", "test"]) -> ImageSet:
    """One set of images, brought to the size and channels and labelled in the order that the settings ask for."""
    size = (config.image_size, config.image_size) if config.image_size else None
    class_map = read_class_map(config.class_map)
    return data.load(path, part=part, size=size, class_map=class_map, channels=config.channels)


def read_class_map(file: str | None) -> dict[Any, int] | None:
    """Class of the data (name or index) -> label of the teacher, from a YAML file."""
    if file is None:
        return None
    loaded = read_yaml(file, "class map")
    if not isinstance(loaded, dict) or not all(type(v) is int and v >= 0 for v in loaded.values()):
        raise UsageError(f"The class map {file} must hold `class: label` lines with labels 0, 1, 2, …")
    return loaded


def load_teacher(
    config: Inputs, validation: ImageSet | None, shape: tuple[int, int, int] | None = None
) -> tuple[Model, dict[str, Any]]:
    """The teacher and what is to be said of it; its input normalisation is found on validation images only.

    Without them (``shape``: C, H, W of its images, if that is known) it has to be given or noted beside the weights.
    Raises UsageError when its accuracy on them is near chance.
    """
    if validation is not None:  # a folder is sorted by class, and the first ones are all that is looked at
        validation = validation.subset(data.balanced_order(validation.labels, 0)[:LOOKED_AT])
    shape = _blind_shape(config, shape) if validation is None else validation.shape
    given = None if config.normalize == "auto" else parse_normalization(config.normalize)
    if given is not None:
        models.normalization(given, shape[0] if shape else 3)  # a bad one is said before a long read
    checkpoint = checkpoints.load(config.teacher)
    if checkpoint.format == "onnx":
        pixels = shape or (config.channels or 3, USUAL_SIDE, USUAL_SIDE)
        model, cost, normalization = _graph(checkpoint, pixels, validation, given)
    else:
        model, cost, normalization = _network(config, checkpoint, shape, validation, given)
    about: dict[str, Any] = {
        "file": Path(config.teacher).name,
        "sha256": checkpoint.sha256,
        "format": checkpoint.format,
        "layout": list(checkpoint.layout),
        "metadata": checkpoint.metadata,
        "bytes": Path(config.teacher).stat().st_size,
        "normalization": normalization,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "weights_sha256": model.sha256,
        "spec": model.spec.to_json(),
        "dropped": list(model.dropped),
        "warnings": list(checkpoint.warnings),
        "validation_acc": None if validation is None else _accuracy(model, validation),
    }
    return model, about


def _graph(
    checkpoint: Checkpoint, shape: tuple[int, int, int], validation: ImageSet | None, given: Given | None
) -> tuple[Model, models.Cost, dict[str, Any]]:
    """An ONNX teacher, its cost, and how its normalisation is known."""
    classes = None if validation is None else len(validation.class_names)
    model = models.onnx_teacher(checkpoint, shape, classes, normalize=given)
    refuse_unknown_labels(() if validation is None else (validation,), model.spec)
    return model, models.onnx_cost(checkpoint, shape), {"how": "inside the ONNX graph" if given is None else "given"}


def _network(
    config: Inputs,
    checkpoint: Checkpoint,
    shape: tuple[int, int, int] | None,
    validation: ImageSet | None,
    given: Given | None,
) -> tuple[Model, models.Cost, dict[str, Any]]:
    """A teacher of the zoo or of the user's code, its cost, and how its normalisation was found."""
    noted, how = noted_spec(config), "given"
    if noted is not None and given is None:
        given, how = (noted.input.mean, noted.input.std), "noted beside the weights"
    arch = config.arch or (noted.arch if noted else None)
    spec = models.infer_spec(
        checkpoint.tensors, arch=arch, input_shape=shape, num_classes=config.num_classes, normalize=given
    )
    refuse_unknown_labels(() if validation is None else (validation,), spec)
    normalization: dict[str, Any] = {"how": how}
    if given is None:
        if validation is None:
            raise UsageError(
                "Without training images the teacher's input normalisation is not detected. Name it with "
                f"--normalize, for instance --normalize cifar10 (one of {', '.join(models.NORMALIZATIONS)}, or "
                "mean/std)."
            )
        inputs, tried = models.detect_normalization(spec, checkpoint.tensors, validation.images, validation.labels)
        spec = models.with_input(spec, inputs)
        how, note = "best of the presets on validation images", models.normalization_note(tried)
        normalization = {"how": how, "tried": tried, "note": note}
    return models.build(spec, checkpoint.tensors), models.cost(spec), normalization


def _accuracy(model: Model, validation: ImageSet) -> float:
    """ACC on validation images, a fraction; UsageError where it is about chance."""
    right = metrics.accuracy(TorchRunner(model)(validation.images).argmax(1), validation.labels)
    if about_chance(right, validation.labels, model.spec.num_classes):
        raise UsageError(
            f"The teacher is right on {right.hits} of {right.total} validation images, which is about chance. "
            "Probably its labels are in another order (--class-map), or its input is normalised differently "
            "(--normalize)."
        )
    return right.value


def _blind_shape(config: Inputs, shape: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
    """C, H, W of the teacher's images where none are there: of the test images, as asked for, or as noted; None: usual."""
    if shape is None and config.image_size is not None:
        return config.channels or 3, config.image_size, config.image_size
    noted = None if shape is not None else noted_spec(config)
    return shape if noted is None else noted.input.shape


def about_chance(right: Rate, labels: np.ndarray, num_classes: int) -> bool:
    """Whether an accuracy is no better than guessing, or than always saying the most frequent of ``labels`` [N].

    The interval is held against guessing alone: few images of one large class would refuse a good teacher.
    """
    guess = 1 / num_classes
    chance = max(guess, int(np.bincount(labels).max()) / len(labels))
    return right.value < chance + NEAR_CHANCE * (1 - chance) or right.interval()[0] <= guess


def noted_spec(config: Inputs) -> ModelSpec | None:
    """What edgekd noted beside weights of its own about the network; None where there is no such note.

    Raises UsageError for a damaged note or one of other weights, UnsafeInput for one that names code to run.
    """
    sidecar = checkpoints.load_sidecar(config.teacher)
    if sidecar is None or "spec" not in sidecar["metadata"]:
        return None
    try:
        spec = ModelSpec.from_json(sidecar["metadata"]["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{config.teacher}.json does not say which network this is ({error}). Restore the file that edgekd "
            "wrote there."
        ) from None
    refuse_foreign_code(spec.arch, config.arch)
    return spec


def refuse_unknown_labels(parts: Iterable[ImageSet], spec: ModelSpec) -> None:
    """Raise UsageError for a label that the teacher has no output for."""
    top = max((int(part.labels.max()) for part in parts), default=-1)
    if top >= spec.num_classes:
        raise UsageError(
            f"The data has a label {top}, but the teacher ({spec.arch}) has only the {spec.num_classes} outputs 0 "
            f"to {spec.num_classes - 1}. Map the data's classes to its outputs with --class-map."
        )


def load_triggers(config: RunConfig, spec: ModelSpec) -> tuple[Trigger, ...]:
    """The triggers that the user knows, for a network of this input and these classes; () without any."""
    given = config.trigger
    if given.file is None:
        if given != type(given)():
            raise UsageError(
                "A target label, rule, position or opacity belongs to a trigger, and no trigger was given. Name its "
                "file with --trigger."
            )
        return ()
    return triggers.load(
        given.file,
        target_label=given.target_label,
        rule=given.rule,
        source_labels=given.source_labels,
        position=given.position,  # type: ignore[arg-type]  # a tuple of any length, which the reader counts
        opacity=given.opacity,
        shape=spec.input.shape,
        num_classes=spec.num_classes,
    )


def refuse_foreign_code(arch: str, asked: str | None) -> None:
    """Raise UnsafeInput where a file, not the user, names code to run as a network."""
    if models.is_user_network(arch) and arch != asked:
        raise UnsafeInput(
            f"The file says that its network is {arch!r}, which is code that would have to run. If you trust that "
            f"code, name it yourself: --arch {arch}."
        )


def rebuild(config: RunConfig, about: dict[str, Any]) -> Model:
    """The teacher again, from what an earlier look found out about it."""
    checkpoint, spec = checkpoints.load(config.teacher), ModelSpec.from_json(about["spec"])
    refuse_foreign_code(spec.arch, config.arch)
    if checkpoint.format == "onnx":
        statistics = (spec.input.mean, spec.input.std)
        return models.onnx_teacher(checkpoint, spec.input.shape, spec.num_classes, normalize=statistics)
    return models.build(spec, checkpoint.tensors)


def parse_normalization(text: str) -> Given:
    """A preset's name, or ``mean/std`` as comma-separated numbers, e.g. ``0.5,0.5,0.5/0.25,0.25,0.25``."""
    if "/" not in text:
        return text
    try:
        first, second = text.split("/")
        return tuple(float(v) for v in first.split(",")), tuple(float(v) for v in second.split(","))
    except ValueError:
        raise UsageError(
            f"--normalize {text!r} is neither auto, nor a preset ({', '.join(models.NORMALIZATIONS)}), nor mean/std "
            "such as 0.5,0.5,0.5/0.25,0.25,0.25."
        ) from None
