"""Another network that is shown the same images as the one in question: a reference, or what it was before a defence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ..config import RunConfig
from ..data import ImageSet
from ..errors import EdgekdError, UsageError
from ..types import Model
from . import intake


class Beside(NamedTuple):
    """Another network that an audit shows the same probes. role: its option's name, without the dashes."""

    role: str
    file: str
    arch: str | None


def beside(role: str, file: str | None, arch: str | None) -> Beside | None:
    """None without a file; raises UsageError where there is an architecture and no file."""
    if file is None and arch is not None:
        raise UsageError(
            f"--{role}-arch is the architecture of --{role}, which was not given. Give --{role}, or leave "
            f"--{role}-arch out."
        )
    return None if file is None else Beside(role, file, arch)


def load_beside(config: RunConfig, other: Beside, images: ImageSet) -> tuple[Model, dict[str, Any]]:
    """A network of its own, so neither architecture nor normalisation is the audited model's."""
    own = config.model_copy(update={"teacher": other.file, "arch": other.arch, "normalize": "auto"})
    try:
        return intake.load_teacher(own, images)
    except EdgekdError as error:
        # the reader speaks of the only model that most commands have
        said = str(error).replace("--arch", f"--{other.role}-arch")
        raise type(error)(f"The model of --{other.role}, {Path(other.file).name}: {said}") from error
