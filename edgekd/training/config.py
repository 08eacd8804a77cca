"""How long, how fast and on what a network is trained."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import UsageError, did_you_mean


class Settings(BaseModel):
    """Frozen settings of a method or an attack; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def fraction(value: object) -> object:
    """``8/255`` as the number it is; anything else as it came."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*/\s*(\d+)\s*", value) if isinstance(value, str) else None
    return float(found[1]) / int(found[2]) if found and int(found[2]) else value


Fraction = Annotated[float, BeforeValidator(fraction)]  # 0.03 or 8/255
S = TypeVar("S", bound=BaseModel)
MOST_TIMES = 10  # the epochs, where images are few


def checked(kind: type[S], what: str, options: Mapping[str, Any]) -> S:
    """The settings of ``what``, as in "method 'kd'"; raises UsageError naming the key, with the nearest known one."""
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UsageError(f"The {what} has no setting {key!r}.{did_you_mean(key, kind.model_fields)}") from None
        where = f"setting {key} = {first.get('input')!r}" if key else "settings"
        reason = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"Invalid {where} of the {what}: {reason}.") from None


def chosen(table: Mapping[str, str], name: str, what: str) -> Any:
    """The class that row ``name`` of a static table (name -> module:class) stands for; raises UsageError for no row."""
    if name not in table:
        raise UsageError(f"There is no {what} {name!r}.{did_you_mean(name, table)} The {what}s are {', '.join(table)}.")
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)


class TrainConfig(Settings):
    """The schedule of one training run; nothing in it depends on the method."""

    epochs: int = Field(ge=1, le=100_000, description="passes over the training images")
    least_shown: int = Field(
        0,
        ge=0,
        description="least number of images to show in all; with few images there are more epochs, up to ten times as "
        "many",
    )
    batch_size: int = Field(128, ge=2, le=65_536, description="images per step")
    lr: float = Field(0.1, gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    nesterov: bool = Field(True, description="use Nesterov momentum")
    weight_decay: float = Field(5e-4, ge=0, description="pull of all weights towards zero, per step")
    schedule: Literal["cosine", "step", "onecycle", "crd"] = Field("cosine", description="how the learning rate falls")
    warmup_epochs: float = Field(
        0, ge=0, description="epochs in which the learning rate rises from near 0; not for onecycle"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="arithmetic of the training; weights stay in fp32. auto: bf16 only where the processor supports it, "
        "since emulated bf16 is slow",
    )
    augment: Literal["crop-flip", "crop", "flip", "none"] = Field("crop-flip", description="augmentation of an image")
    validate_every: int = Field(1, ge=1, description="epochs between two validations")
    device: str = Field("cpu", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="cpu, cuda, cuda:1 or auto")
    seed: int = Field(
        0, ge=0, lt=2**31, description="seed of the first weights, the order of the images and augmentation"
    )

    def of(self, images: int) -> TrainConfig:
        """As long as so many training images ask for: with few of them, ``epochs`` passes would be too few steps."""
        wanted = min(math.ceil(self.least_shown / max(images, 1)), MOST_TIMES * self.epochs)
        return self.model_copy(update={"epochs": max(self.epochs, wanted)})
