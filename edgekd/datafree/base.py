"""What an image source is: a source of batches with a state of its own, which looks at teacher and student."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from ..data import Batch
from ..data.streams import stream
from ..errors import UsageError
from ..training import Settings, TrainConfig
from ..training.device import resolve_precision
from ..training.method import BatchSource
from ..types import ModelSpec
from .told import Told

if TYPE_CHECKING:
    from .vaccine import Vaccine

Needs = Literal["logits", "gradients", "statistics"]


@dataclass(frozen=True)
class View:
    """What a source may see: the teacher, the student as it learns, and a folder for what is worth keeping."""

    teacher: Told  # eval mode, on the device
    student: nn.Module
    device: torch.device
    folder: Path | None = None
    teacher_sha256: str = ""


class Part(NamedTuple):
    """Images of a batch that count alike; suspect: batch norms should not follow these."""

    weight: float
    batch: Batch
    suspect: bool = False


class ImageSource(BatchSource, Protocol):
    """Where a training's images come from. Labels are the teacher's; images float in [0, 1], on the device.

    Opened once per training, before the first batch. All that changes between two epochs lives in ``modules()``, so that
    a killed run ends with the same bytes; an epoch is a function of its number and of that state.
    """

    still: bool  # true: images as they come, nothing is trained
    fixed: ClassVar[bool]  # whether there is a set of images, each with a number, that stays

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        ...

    @property
    def num_classes(self) -> int: ...

    def open(self, view: View) -> None: ...

    def modules(self) -> tuple[nn.Module, ...]:
        """What the source trains or keeps, thrown away at the end."""
        ...

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]: ...

    def optimizer(self, parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer | None:
        """The student's optimiser where the source wants another than the method's."""
        ...

    def parts(self, batch: Batch) -> Iterator[Part]:
        """The batch cut by how much its images are to count."""
        ...

    def flagged(self, images: np.ndarray) -> np.ndarray:
        """Which images uint8 [N, C, H, W], of any origin, an accepted vaccine suspects, bool [N]; once opened."""
        ...

    def collect(self, count: int, seed: int) -> np.ndarray:
        """uint8 [count, C, H, W] of what the student sees, not those that are suspected; for scales and agreement."""
        ...

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to continue, plain JSON."""
        ...

    @property
    def report(self) -> dict[str, Any]: ...


class Source:
    """Base of every source; images of the teacher's size, ``train.batch_size`` at once."""

    Config: ClassVar[type[Settings]] = Settings
    needs: ClassVar[Needs] = "logits"  # of the teacher
    fixed: ClassVar[bool] = False
    presets: ClassVar[dict[str, Any]] = {"fast": {}, "full": {}}  # by profile: train, source, and a method's options

    view: View
    steps: int  # an epoch

    def __init__(self, config: Any, spec: ModelSpec, train: TrainConfig, vaccine: Vaccine | None = None) -> None:
        self.config, self.spec, self.train, self.vaccine = config, spec, train, vaccine
        self.still = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.spec.input.shape

    @property
    def num_classes(self) -> int:
        return self.spec.num_classes

    def open(self, view: View) -> None:
        raise NotImplementedError

    def epoch(self, number: int, /) -> Iterator[Batch]:
        raise NotImplementedError

    def modules(self) -> tuple[nn.Module, ...]:
        raise NotImplementedError

    def collect(self, count: int, seed: int) -> np.ndarray:
        raise NotImplementedError

    @property
    def report(self) -> dict[str, Any]:
        """What the source measured about itself; ``classes``: how many images the teacher takes for each, before any choice."""
        raise NotImplementedError

    @property
    def labels(self) -> torch.Tensor:
        raise self._passing()

    def once(self) -> Iterator[Batch]:
        raise self._passing()

    def _passing(self) -> UsageError:
        return UsageError("These images are made as they are needed and not kept, so there is no list of them.")

    def optimizer(self, parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer | None:
        return None

    def shortened(self, steps: int) -> tuple[dict[str, Any], float, int]:
        """For forecasts: options for about ``steps`` steps an epoch, how much less preparation they ask for, and the
        real steps of an epoch."""
        raise NotImplementedError

    def kept_bytes(self, teacher: nn.Module) -> int:
        """What it keeps of its images, for forecasts."""
        return 0

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return ()

    def parts(self, batch: Batch) -> Iterator[Part]:
        yield Part(1.0, batch)

    def flagged(self, images: np.ndarray) -> np.ndarray:
        if self.vaccine is None:
            return np.zeros(len(images), bool)
        found: np.ndarray = self.vaccine.flagged(self.view.teacher.teacher, torch.from_numpy(images)).cpu().numpy()
        return found

    def identity(self) -> dict[str, Any]:
        vaccine = None if self.vaccine is None else self.vaccine.config.model_dump(mode="json")
        return {"source": self.config.model_dump(mode="json"), "vaccine": vaccine, "shape": list(self.spec.input.shape)}

    def noise(self, shape: tuple[int, ...], *names: str | int) -> torch.Tensor:
        """Standard normal numbers, a function of the run's seed and the names alone, on the device."""
        drawn = stream(self.train.seed, *names).standard_normal(shape, np.float32)
        return torch.from_numpy(drawn).to(self.view.device)

    def bf16(self) -> torch.autocast:
        """Passes whose outputs are only compared may be in bf16; statistics and the vaccine's small distances may not."""
        enabled = resolve_precision(self.train.precision, self.view.device) == "bf16"
        return torch.autocast(self.view.device.type, torch.bfloat16, enabled=enabled)


def pixels(images: torch.Tensor) -> np.ndarray:
    """Float images [N, C, H, W] in [0, 1] as they are stored: uint8."""
    found: np.ndarray = images.detach().mul(255).round().clamp(0, 255).to(torch.uint8).cpu().contiguous().numpy()
    return found


def histogram(logits: torch.Tensor) -> list[int]:
    """How many images each class is named for."""
    counts: list[int] = torch.bincount(logits.argmax(1), minlength=logits.shape[1]).tolist()
    return counts
