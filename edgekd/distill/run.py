"""One distillation, from a teacher to a student: checks, builds, trains, proves that the teacher is as it was."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..data import Batches, ImageSet
from ..datafree import ImageSource
from ..datafree.told import Told
from ..errors import UsageError
from ..models import build, weights_sha256
from ..training import Progress, Settings, TrainConfig, checked, chosen, fit
from ..training.chunks import Chunks
from ..training.device import place, resolve_device
from ..training.fit import Validate
from ..training.method import Accuracy, BatchSource, Method
from ..training.untouched import untouched
from ..types import AuditReport, Model, ModelSpec, TrainLog
from .base import Distiller, freeze
from .from_source import FromSource
from .table import METHODS
from .vetting import refuse_unvetted


class Around(NamedTuple):
    """What is put around a method: how, in epochs of how many steps, and what tells it from another (plain JSON)."""

    wrap: Callable[[Method], Method]
    chunk: int
    identity: dict[str, Any]


def run(
    teacher: Model | None,
    student: ModelSpec,
    images: ImageSet | ImageSource,
    method: str,
    options: Mapping[str, Any],
    train: TrainConfig,
    *,
    folder: Path | None = None,
    validate: Validate | None = None,
    accuracy: Accuracy | None = None,
    progress: Progress | None = None,
    start: Mapping[str, torch.Tensor] | None = None,
    frozen: bool = False,
    report: AuditReport | None = None,
    around: Around | None = None,
) -> tuple[Model, TrainLog]:
    """Train a student of ``images`` by a method of the table; a run that was killed in ``folder`` continues.

    teacher: None only for methods without one. student: ignored by finetune, whose student is the teacher's copy.
    validate: figures of a module of pixels -> logits on validation images, ``acc`` a fraction among them.
    start: weights for some or all of the student's tensors, by name; the others start from the seed.
    frozen: the weights given in ``start`` do not learn (running statistics of their norms still follow the images).
    report: what the audit of these weights found, with its alarms; some methods take no teacher without one.
    images: a set with labels, or a source that makes them; around: what goes with the method, a source then stands still.
    Raises UsageError for networks, images and options that do not fit each other, UnsafeInput for an unvetted teacher.
    """
    kind, settings, student = check(teacher, student, images, method, options)
    watched = teacher.module if teacher is not None and kind.needs != "nothing" else None
    sha256 = "" if teacher is None or watched is None else teacher.sha256 or weights_sha256(watched.state_dict())
    refuse_unvetted(method, settings, report, sha256)
    train = train.model_copy(update={"lr": getattr(settings, "lr", train.lr)})
    device = resolve_device(train.device)
    module = _student(kind, teacher, student, train.seed)
    if start is not None:
        _put(start, module.net)
        for name, parameter in module.net.named_parameters():
            parameter.requires_grad_(not (frozen and name in start))
    made, batches = _on_images(kind, settings, watched, images, train, device, sha256)
    identity = {
        "method": method,
        "options": settings.model_dump(mode="json"),
        "student": student.to_json(),
        "images": images.sha256 if isinstance(images, ImageSet) else images.identity(),
        "teacher": sha256,
    }
    if around is not None:
        made, batches = around.wrap(made), Chunks(batches, around.chunk)
        identity |= around.identity
    if not isinstance(images, ImageSet):
        images.still = around is not None
    if start is not None:
        identity["start"] = [weights_sha256(start), "frozen" if frozen else "free"]
    with _lent(watched, device, method):
        log = fit(
            module,
            made,
            batches,
            train,
            folder=folder,
            validate=validate,
            accuracy=accuracy,
            progress=progress,
            identity=identity,
            what=method,
        )
    module.to("cpu").requires_grad_(True).eval()
    return Model(student, module, weights_sha256(module.net.state_dict())), log


def _on_images(
    kind: type[Distiller],
    settings: Settings,
    teacher: Any,
    images: ImageSet | ImageSource,
    train: TrainConfig,
    device: torch.device,
    sha256: str,
) -> tuple[Method, BatchSource]:
    """The method, and the batches it learns from."""
    if isinstance(images, ImageSet):
        batches = Batches(images, train.batch_size, seed=train.seed, augment=train.augment, device=device)
        return kind(settings, teacher), batches
    told = Told(teacher)
    return FromSource(kind(settings, told), images, told, sha256), images


def check(
    teacher: Model | None, student: ModelSpec, images: ImageSet | ImageSource, method: str, options: Mapping[str, Any]
) -> tuple[type[Distiller], Settings, ModelSpec]:
    """The method, its settings and the student's spec; raises the UsageErrors of ``run`` without training."""
    kind = method_class(method)
    settings = checked(kind.Config, f"method {method!r}", options)
    if kind.needs == "weights" and teacher is not None:
        student = teacher.spec
    _refuse_misfits(kind, method, teacher, student, images)
    return kind, settings, student


@contextlib.contextmanager
def _lent(teacher: nn.Module | None, device: torch.device, method: str) -> Iterator[None]:
    """The teacher frozen and on the device, then back as it was."""
    if teacher is None:
        yield
        return
    home = _device_of(teacher)
    freeze(teacher)
    with untouched(teacher, f"method {method!r}"):
        place(teacher, device)
        try:
            yield
        finally:
            teacher.to(home)


def method_class(name: str) -> type[Distiller]:
    """The class of a row of the table; raises UsageError with the nearest name for one that is not there."""
    kind: type[Distiller] = chosen(METHODS, name, "method")
    return kind


def _refuse_misfits(
    kind: type[Distiller], method: str, teacher: Model | None, student: ModelSpec, images: ImageSet | ImageSource
) -> None:
    if not isinstance(images, ImageSet):
        _refuse_without_data(kind, method, images)
    if images.num_classes > student.num_classes or images.shape != student.input.shape:
        raise UsageError(
            f"The images are {_shape(images.shape)} of {images.num_classes} classes, but the student "
            f"{student.arch} takes {_shape(student.input.shape)} of {student.num_classes}. Give images of the "
            "student's size, or another class map."
        )
    if kind.needs == "nothing":
        return
    if teacher is None:
        raise UsageError(f"The method {method!r} needs a teacher. Without one, use the method `scratch`.")
    if teacher.spec.num_classes != student.num_classes:
        raise UsageError(
            f"The teacher {teacher.spec.arch} knows {teacher.spec.num_classes} classes, but the student "
            f"{student.arch} {student.num_classes}. Both must know the same classes in the same order."
        )
    if teacher.spec.input.shape != student.input.shape:
        raise UsageError(
            f"The teacher {teacher.spec.arch} takes {_shape(teacher.spec.input.shape)}, but the student "
            f"{student.arch} {_shape(student.input.shape)}. Distillation shows both the same image, so they must "
            "match."
        )
    lacking = _lacking(kind, teacher)
    if lacking:
        works = ", ".join(name for name in METHODS if not _lacking(method_class(name), teacher))
        raise UsageError(
            f"The method {method!r} needs the teacher's {lacking}, but this teacher ({teacher.spec.arch}) offers "
            f"logits only. Methods that work with it: {works}."
        )


def _refuse_without_data(kind: type[Distiller], method: str, source: ImageSource) -> None:
    if kind.true_labels:
        works = ", ".join(name for name in METHODS if not method_class(name).true_labels)
        raise UsageError(
            f"The method {method!r} needs images with labels of their own, but without data there are only the "
            f"teacher's. Give --data, or choose another --method: {works}."
        )
    if kind.every_image and not source.fixed:
        raise UsageError(
            f"The method {method!r} keeps something for every image, but this source keeps making new ones. "
            "Choose --source patches, or --method kd."
        )


def _lacking(kind: type[Distiller], teacher: Model) -> str:
    trainable = any(True for _ in teacher.module.parameters())
    if kind.needs in ("weights", "gradients"):
        return "" if trainable else kind.needs
    if kind.needs == "sites":
        return "" if trainable and hasattr(teacher.module, "sites") else "features"
    return ""


def _shape(shape: tuple[int, int, int]) -> str:
    return " x ".join(str(extent) for extent in shape)


def _student(kind: type[Distiller], teacher: Model | None, spec: ModelSpec, seed: int) -> Any:
    if kind.needs == "weights" and teacher is not None:
        return copy.deepcopy(teacher.module).requires_grad_(True)
    return build(spec, seed=seed).module


def _put(start: Mapping[str, torch.Tensor], net: nn.Module) -> None:
    """Copy tensors into a network; raises UsageError for one that is not there or of another shape."""
    tensors = net.state_dict()
    for name, tensor in start.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise UsageError(f"The student has no tensor {name!r} of the shape {list(tensor.shape)} to start from.")
        tensors[name].copy_(tensor)


def _device_of(module: nn.Module) -> torch.device:
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
