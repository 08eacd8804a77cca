"""What a training method is: it prepares itself once and turns a batch into named loss terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from edgekd_device.runtime.base import Progress

from .config import TrainConfig

if TYPE_CHECKING:
    from ..data import Batch

Accuracy = Callable[[Callable[[torch.Tensor], torch.Tensor]], float]  # of float images -> logits; a fraction


class BatchSource(Protocol):
    """Batches of an epoch; what is in them is a function of the epoch's number alone."""

    @property
    def steps(self) -> int: ...

    @property
    def labels(self) -> torch.Tensor:
        """int64 [N], of all images that ``Batch.index`` counts."""
        ...

    def epoch(self, number: int, /) -> Iterator[Batch]: ...

    def once(self) -> Iterator[Batch]:
        """Every image once and as it is, in the order of their index."""
        ...


@dataclass(frozen=True)
class Context:
    """What a method may see before the first step. Validation images only as a callable, test images not at all."""

    student: nn.Module  # on the device, channels_last
    batches: BatchSource
    config: TrainConfig
    device: torch.device
    folder: Path | None = None  # the method's own, for what it wants to keep
    accuracy: Accuracy | None = None  # on the validation images
    progress: Progress | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)  # what must be equal for a run to continue


class Method:
    """Base of every method; all that changes between two steps must live in ``modules()``, so that resume is exact."""

    def prepare(self, context: Context) -> None:
        """Make ready what the steps need; called once per run, also when it continues. Must be deterministic.

        torch's generator is seeded for it, so fresh layers are a function of the seed.
        """

    def start_epoch(self, number: int) -> None:
        """Called before every epoch, counted from 0, of a continued run as well; for what depends on time alone."""

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Named loss terms of a batch, weights included; their sum is minimised."""
        raise NotImplementedError

    def update(self, step: Callable[[], None]) -> None:
        """Called with the gradients ready: ``step()`` is the main optimiser's, to be called once.

        For methods that move weights around it: back from where the gradient was taken, or into bounds afterwards.
        """
        step()

    def modules(self) -> tuple[nn.Module, ...]:
        """What is trained beside the student and thrown away at the end."""
        return ()

    def optimizer(self, parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        """The optimiser; each group's rate is the highest one, the schedule scales it."""
        return torch.optim.SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov and config.momentum > 0,
            weight_decay=config.weight_decay,
        )

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """Optimisers of parts of ``modules()``, asked for after ``prepare``; the schedule leaves their rates alone.

        For methods that train several things against each other. The loop steps them too, and a parameter without a
        gradient stays as it is, so ``step`` may as well drive them itself.
        """
        return ()

    def finished(self, figures: Mapping[str, float]) -> bool:
        """Whether to stop after an epoch with these figures (loss terms and validation)."""
        return False

    @property
    def report(self) -> dict[str, Any]:
        """What the method measured about itself; plain JSON."""
        return {}
