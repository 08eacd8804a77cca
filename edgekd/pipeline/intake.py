"""What a run starts from: the images, split, and the teacher, recognised and normalised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from .. import checkpoints, data, models
from ..config import RunConfig
from ..data import ImageSet
from ..errors import UsageError
from ..runners.torch import TorchRunner
from ..types import InputSpec, Model

# Below this many times chance, labels or normalisation are wrong rather than the teacher weak.
NEAR_CHANCE = 1.5


def load_data(config: RunConfig) -> dict[str, ImageSet]:
    """train, validation and test images; a seeded split where no test set was given."""
    size = (config.image_size, config.image_size) if config.image_size else None
    class_map = read_class_map(config.class_map)
    images = data.load(config.data, part="train", size=size, class_map=class_map)
    if config.test is None:
        return data.split(images, config.seed)
    test = data.load(config.test, part="test", size=size, class_map=class_map)
    if test.images.shape[1:] != images.images.shape[1:]:
        raise UsageError(
            f"Training images are {images.images.shape[1:]}, test images {test.images.shape[1:]} (C, H, W). "
            "Bring both to one size with --image-size."
        )
    parts = data.split(images, config.seed, {"train": 0.9, "validation": 0.1})
    return {**parts, "test": test}


def read_class_map(file: str | None) -> dict[Any, int] | None:
    """Class of the data (name or index) -> label of the teacher, from a YAML file."""
    if file is None:
        return None
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except OSError as error:
        raise UsageError(f"Cannot read the class map {file}: {error.strerror or error}.") from None
    except Exception as error:  # whatever the YAML parser says of a stranger's file
        raise UsageError(f"The class map {file} is not valid YAML ({type(error).__name__}).") from None
    if not isinstance(loaded, dict) or not all(isinstance(v, int) and v >= 0 for v in loaded.values()):
        raise UsageError(f"The class map {file} must hold `class: label` lines with labels 0, 1, 2, …")
    return {key: int(value) for key, value in loaded.items()}


def load_teacher(config: RunConfig, validation: ImageSet) -> tuple[Model, dict[str, Any]]:
    """The teacher and what is to be said of it; its input normalisation is found on validation images only.

    Raises UsageError when its accuracy there is near chance.
    """
    checkpoint = checkpoints.load(config.teacher)
    about: dict[str, Any] = {
        "file": Path(config.teacher).name,
        "sha256": checkpoint.sha256,
        "format": checkpoint.format,
        "layout": list(checkpoint.layout),
        "metadata": checkpoint.metadata,
        "bytes": Path(config.teacher).stat().st_size,
    }
    shape = validation.images.shape[1:]
    if checkpoint.format == "onnx":
        model = models.onnx_teacher(checkpoint, shape, len(validation.class_names))
        about["normalization"] = {"how": "inside the ONNX graph"}
    else:
        spec = models.infer_spec(checkpoint.tensors, arch=config.arch, input_shape=shape)
        if config.normalize == "auto":
            inputs, accuracies = models.detect_normalization(
                spec, checkpoint.tensors, validation.images[:1000], validation.labels[:1000]
            )
            about["normalization"] = {"how": "best of the presets on validation images", "tried": accuracies}
        else:
            inputs = parse_normalization(config.normalize, spec.input)
            about["normalization"] = {"how": "given"}
        spec = models.with_input(spec, inputs)
        model = models.build(spec, checkpoint.tensors)
    about |= {"spec": model.spec.to_json(), "dropped": list(model.dropped), "warnings": list(checkpoint.warnings)}
    top = int(validation.labels.max())
    if top >= model.spec.num_classes:
        raise UsageError(
            f"The data has a label {top}, the teacher only {model.spec.num_classes} classes. Map them with --class-map."
        )
    logits = TorchRunner(model)(validation.images[:2000])
    accuracy = float(np.mean(logits.argmax(1) == validation.labels[: len(logits)]))
    about["validation_acc"] = accuracy
    if accuracy < NEAR_CHANCE / model.spec.num_classes:
        raise UsageError(
            f"The teacher is right on {accuracy:.1%} of the validation images, which is about chance. "
            "Probably its labels are in another order (--class-map) or its input normalisation is another (--normalize)."
        )
    return model, about


def parse_normalization(text: str, inputs: InputSpec) -> InputSpec:
    """A preset's name, or ``mean/std`` as comma-separated numbers, e.g. ``0.5,0.5,0.5/0.25,0.25,0.25``."""
    if text in models.NORMALIZATIONS:
        mean, std = models.NORMALIZATIONS[text]
    else:
        try:
            first, second = text.split("/")
            mean, std = tuple(float(v) for v in first.split(",")), tuple(float(v) for v in second.split(","))
        except ValueError:
            raise UsageError(
                f"--normalize {text!r} is neither auto, nor one of {', '.join(models.NORMALIZATIONS)}, nor mean/std "
                "such as 0.5,0.5,0.5/0.25,0.25,0.25."
            ) from None
    if len(mean) == 1:
        mean, std = mean * inputs.channels, std * inputs.channels
    if len(mean) != inputs.channels or len(std) != inputs.channels or not all(value > 0 for value in std):
        raise UsageError(f"--normalize {text!r} needs {inputs.channels} means and as many positive deviations.")
    return InputSpec(*inputs.shape, mean, std)
