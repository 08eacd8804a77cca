"""A source by its name: settings checked, teacher held against what the source needs of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import UsageError
from ..training import TrainConfig, checked, chosen
from ..types import Model
from .base import Source
from .table import SOURCES
from .vaccine import Vaccine, VaccineSettings, last_convolutions


def source_class(name: str) -> type[Source]:
    """The class of a row of the table; raises UsageError with the nearest name for one that is not there."""
    kind: type[Source] = chosen(SOURCES, name, "image source")
    return kind


def make(
    name: str,
    options: Mapping[str, Any],
    teacher: Model,
    train: TrainConfig,
    vaccine: VaccineSettings | None = None,
) -> Source:
    """A source of the table for this teacher; it makes nothing before it is opened.

    vaccine: None for images as the source makes them. Raises UsageError for an unknown name or setting, and for a teacher
    that the source or the vaccine cannot work with.
    """
    kind = source_class(name)
    settings = checked(kind.Config, f"image source {name!r}", options)
    refuse_misfits(kind, name, teacher, vaccine)
    made = None if vaccine is None else Vaccine(vaccine, train.seed)
    return kind(settings, teacher.spec, train, made)


def refuse_misfits(kind: type[Source], name: str, teacher: Model, vaccine: VaccineSettings | None) -> None:
    """Raise UsageError where the teacher lacks what the source, or the vaccine, works with."""
    works = ", ".join(row for row in SOURCES if source_class(row).needs == "logits")
    if kind.needs != "logits" and next(teacher.module.parameters(), None) is None:
        raise UsageError(
            f"The image source {name!r} needs gradients of the teacher, but this one ({teacher.spec.arch}) offers "
            f"logits only. Sources that work with it: {works}."
        )
    norms = [part for part in teacher.module.modules() if isinstance(part, nn.BatchNorm2d) and part.track_running_stats]
    if kind.needs == "statistics" and not norms:
        raise UsageError(
            f"The image source {name!r} matches the statistics of the teacher's batch norms, but "
            f"{teacher.spec.arch} has none. Choose another source: {works}."
        )
    if vaccine is not None and not last_convolutions(teacher.module, vaccine.layers):
        raise UsageError(
            f"The shuffling vaccine permutes the inputs of convolutions, but this teacher ({teacher.spec.arch}) "
            "shows none. Switch it off with -o abd.vaccine=false."
        )


def named_source(given: Any) -> dict[str, Any]:
    """``source`` as a group of settings; a name alone, or NAME:IMAGE, will do."""
    if given is None or given == {}:
        return {}
    if isinstance(given, str):
        name, colon, image = given.partition(":")
        if colon and not image:
            raise UsageError(
                f"--source {given} names no picture: {name}:PATH is a picture or a folder of them, {name} alone has none."
            )
        return {"name": name, **({"image": image} if colon else {})}
    if not isinstance(given, dict):
        raise UsageError("`source` is a group of settings: write source.name=patches, source.image=photo.jpg.")
    return {**given, **(named_source(given["name"]) if ":" in str(given.get("name", "")) else {})}
