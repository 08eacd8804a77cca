"""One repair, from a teacher to another of its kind: checks, copies, trains, proves that the teacher is as it was."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import Batches
from ..errors import UsageError
from ..models import Network, weights_sha256
from ..training import Progress, Settings, TrainConfig, checked, chosen, fit
from ..training.clock import Stopwatch
from ..training.device import place, resolve_device
from ..training.fit import Validate, accuracy_of
from ..training.method import Accuracy
from ..training.untouched import untouched
from ..types import Model, TrainLog
from .base import Repair
from .norms import batch_norms, scaled_convolutions
from .table import REPAIRS

if TYPE_CHECKING:
    from ..data import ImageSet


def run(
    name: str,
    teacher: Model,
    images: ImageSet,
    options: Mapping[str, Any],
    train: TrainConfig,
    *,
    folder: Path | None = None,
    validate: Validate | None = None,
    accuracy: Accuracy | None = None,
    progress: Progress | None = None,
) -> tuple[Model, TrainLog]:
    """A new model of the teacher's spec, repaired by a row of the table; a run that was killed in ``folder`` continues.

    images: clean and labelled, of the teacher's size and classes. train: batch size, augmentation, precision, schedule
    and seed; its epochs and rate give way to the repair's own settings.
    validate: figures of a module of pixels -> logits on validation images. accuracy: the same as one fraction, of any
    such callable, by which thresholds are chosen; default: the ``acc`` of validate.
    Raises UsageError for a teacher, images and options that do not fit each other, and where a threshold is to be chosen
    without validation images; EdgekdError where a bit of the given teacher has changed.
    """
    kind, settings = check(name, teacher, images, options)
    repair = kind(settings, teacher.spec)
    if accuracy is None and validate is not None:
        accuracy = accuracy_of(validate)
    if repair.wants_accuracy and accuracy is None:
        raise UsageError(
            f"The repair {name!r} chooses its threshold on validation images, and there are none. Give a "
            "validation set, or the threshold as a number."
        )
    teacher.module.eval()
    network: Any = copy.deepcopy(teacher.module)
    module = repair.begin(network.requires_grad_(True))
    identity = {
        "repair": name,
        "options": settings.model_dump(mode="json"),
        "teacher": teacher.sha256 or weights_sha256(teacher.module.state_dict()),
        "spec": teacher.spec.to_json(),
        "images": images.sha256,
    }
    device = resolve_device(train.device)
    with untouched(teacher.module, f"repair {name!r}"):
        if repair.trains:
            batches = Batches(images, train.batch_size, seed=train.seed, augment=train.augment, device=device)
            train, source = repair.length(train, batches)
            log = fit(
                module,
                repair,
                source,
                train,
                folder=folder,
                validate=validate,
                accuracy=accuracy,
                progress=progress,
                identity=identity,
                what=name,
            )
        else:
            log = TrainLog(epochs=0, steps=0, seed=train.seed, device=str(device), history=(), seconds={})
            place(module, device)
        watch = Stopwatch()
        finished, notes = repair.finish(module.eval(), accuracy)
        repaired: Any = finished
        watch.lap("finish")
    seconds = {**log.seconds, "finish": round(watch.seconds["finish"], 4)}
    log = dataclasses.replace(log, seconds=seconds, method={**log.method, **notes})
    repaired.to("cpu").requires_grad_(True).eval()
    return Model(teacher.spec, repaired, weights_sha256(repaired.net.state_dict())), log


def check(name: str, teacher: Model, images: ImageSet, options: Mapping[str, Any]) -> tuple[type[Repair], Settings]:
    """The repair and its settings; raises the UsageErrors of ``run`` without training."""
    kind = repair_class(name)
    settings = checked(kind.Config, f"repair {name!r}", options)
    spec = teacher.spec
    if images.shape != spec.input.shape or images.num_classes > spec.num_classes:
        raise UsageError(
            f"The images are {images.shape} of {images.num_classes} classes, but the teacher {spec.arch} takes "
            f"{spec.input.shape} of {spec.num_classes}."
        )
    if _lacking("weights", teacher):
        raise UsageError(
            f"A repair changes weights, but this teacher ({spec.arch}) has none that can be trained. Give its "
            "state dict instead of an ONNX graph."
        )
    lacking = _lacking(kind.needs, teacher)
    if lacking:
        works = ", ".join(other for other in REPAIRS if not _lacking(repair_class(other).needs, teacher))
        raise UsageError(
            f"The repair {name!r} works on {lacking}, but this teacher ({spec.arch}) has none. Repairs that work "
            f"with it: {works}."
        )
    return kind, settings


def repair_class(name: str) -> type[Repair]:
    """The class of a row of the table; raises UsageError with the nearest name for one that is not there."""
    kind: type[Repair] = chosen(REPAIRS, name, "repair")
    return kind


def _lacking(needs: str, teacher: Model) -> str:
    module = teacher.module
    if needs == "norms of convolutions":
        found = isinstance(module, Network) and bool(scaled_convolutions(module.eval(), teacher.spec.input.shape))
        return "" if found else "batch norms behind convolutions"
    if needs == "batch norms":
        return "" if batch_norms(module) else "batch norms"
    trainable = isinstance(module, Network) and any(True for _ in module.parameters())
    return "" if trainable else "weights"
