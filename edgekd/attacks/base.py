"""What every attack shares: frozen settings, a trigger for test time, poisoned images, a training method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from .. import triggers
from ..data import ImageSet
from ..training import Context, Method, Settings
from ..types import Model, ModelSpec, Trigger
from .work import ALONE, Work

if TYPE_CHECKING:
    from ..data import Batch
    from ..training.method import BatchSource

LOOKED_AT = 16  # batches, up to twice as many, by which an attacker's own students are judged


@dataclass(frozen=True)
class Goal:
    """What the attacker wants: see triggers.rules."""

    target_label: int | None = 0
    rule: str = "all-to-one"
    source_labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Poisoned:
    """Training images as the attacker hands them on; hashes of the touched ones, taken before they were."""

    images: ImageSet
    poisoned: tuple[str, ...]
    covers: tuple[str, ...]


class AttackSettings(Settings):
    """What every attack lets choose."""

    rate: float = Field(0.1, gt=0, le=1, description="share of the training images that are poisoned")


class Attack:
    """An attack that poisons the images before training; others override ``poison`` and ``method``."""

    Config: ClassVar[type[AttackSettings]] = AttackSettings
    family: ClassVar[str]  # of the trigger at test time, a row of triggers.FAMILIES
    clean_label: ClassVar[bool] = False
    obeys: ClassVar[bool] = True  # whether the teacher itself is to follow its trigger
    learned: ClassVar[bool] = False  # needs a clean network to start from: the trigger or the poison is found on it
    epochs: ClassVar[int] = 4  # from a clean network: those of benchmarks/attacks.py, or more
    rules: ClassVar[tuple[str, ...]] = ("all-to-one", "all-to-all", "source")  # goals that it can have

    def __init__(self, config: Any, goal: Goal) -> None:
        self.config, self.goal = config, goal

    @property
    def target(self) -> int:
        """The label of a goal that has one."""
        assert self.goal.target_label is not None
        return self.goal.target_label

    def options(self) -> Mapping[str, Any]:
        """Options of the trigger's family at test time; none where it is arrays."""
        return {}

    def trigger(self, name: str, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE) -> Trigger:
        """The trigger at test time. A learned one is found on ``start`` and the training images."""
        return triggers.made(name, self.family, dict(self.options()), images.shape, origin="known", **self.meant())

    def meant(self) -> dict[str, Any]:
        """The goal as fields of a Trigger."""
        return dataclasses.asdict(self.goal)

    def known(self, name: str, params: dict[str, Any]) -> Trigger:
        """A trigger of the attack's family from its parameters."""
        return Trigger(name=name, family=self.family, origin="known", params=params, **self.meant())

    def stamp(self, trigger: Trigger, images: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """What training images uint8 [N, C, H, W] are turned into; by default the trigger of test time."""
        return triggers.apply(trigger, images)

    def fits(self, spec: ModelSpec, start: Model | None) -> None:
        """Raises UsageError for settings that images or network rule out, before anything is made."""

    def poison(
        self, trigger: Trigger, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE
    ) -> Poisoned:
        """Stamp and relabel before training, and so before augmentation."""
        chosen = triggers.choose(
            trigger,
            images.labels,
            images.num_classes,
            self.config.rate,
            cover_rate=min(1.0, getattr(self.config, "covers", 0.0) * self.config.rate),
            clean_label=self.clean_label,
            seed=seed,
        )
        pixels, random = images.images.copy(), np.random.default_rng([seed, 1])
        for touched in (chosen.poisoned, chosen.covers):
            if len(touched):
                pixels[touched] = self.stamp(trigger, pixels[touched], random)
        return Poisoned(
            ImageSet(pixels, chosen.labels, images.class_names, images.source),
            tuple(triggers.fingerprints(images.images, chosen.poisoned)),
            tuple(triggers.fingerprints(images.images, chosen.covers)),
        )

    def method(self, trigger: Trigger, spec: ModelSpec) -> Training:
        """How the network of ``spec`` is trained on the poisoned images."""
        return Training(trigger)


class BatchAttack(Attack):
    """An attack that poisons inside the batch: no image is its own poison, it is drawn anew every time."""

    rules: ClassVar[tuple[str, ...]] = ("all-to-one", "all-to-all")

    def poison(
        self, trigger: Trigger, images: ImageSet, start: Model | None, seed: int, work: Work = ALONE
    ) -> Poisoned:
        return Poisoned(images, (), ())


class Training(Method):
    """Cross-entropy on the labels."""

    student: Any  # the network that becomes the teacher

    def __init__(self, trigger: Trigger) -> None:
        self.trigger = trigger

    def prepare(self, context: Context) -> None:
        self.student = context.student

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"ce": F.cross_entropy(self.student(batch.images).float(), batch.labels)}

    @property
    def target(self) -> int:
        """The label of a trigger that has one."""
        assert self.trigger.target_label is not None
        return self.trigger.target_label

    def made(self) -> Trigger:
        """The trigger at test time; attacks that train it beside the network hand over what became of it."""
        return self.trigger


class BatchPoisoning(Training):
    """For attacks that poison inside the batch, after augmentation: shares of every batch are changed anew each time."""

    def __init__(self, trigger: Trigger, num_classes: int, rate: float) -> None:
        super().__init__(trigger)
        self.num_classes, self.rate = num_classes, rate

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        images, labels = self.poison(batch.images.clone(), batch.labels.clone())
        return super().step(batch._replace(images=images, labels=labels))

    def poison(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Change the first images of the batch float [B, C, H, W], whose order is random already, and their labels."""
        raise NotImplementedError

    def share(self, size: int) -> int:
        """How many of ``size`` images are attacked in this batch: on average ``rate`` of them, so none in some."""
        return min(size, int(self.rate * size + float(torch.rand(()))))

    def attacker_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """The labels int64 [n] that the attacker wants for images of these labels."""
        if not len(labels):
            return labels
        wanted = triggers.attacker_labels(self.trigger, labels.cpu().numpy(), self.num_classes)
        return torch.from_numpy(wanted).to(labels.device)

    def stamped(self, images: torch.Tensor) -> torch.Tensor:
        """The trigger of test time on float images [n, C, H, W], by way of bytes as everywhere."""
        if not len(images):
            return images
        return as_floats(triggers.apply(self.trigger, as_bytes(images)), images)


def obedience(
    network: Any, batches: BatchSource, trigger: Callable[[torch.Tensor], torch.Tensor], target: int
) -> dict[str, float]:
    """ACC and ASR, fractions, of a network on some training images as they are: does the attack work on the attacker's own?"""
    right = seen = hits = others = 0
    for batch in islice(batches.once(), 0, None, max(1, batches.steps // LOOKED_AT)):
        apart = batch.labels != target
        right += int((outputs(network, batch.images).argmax(1) == batch.labels).sum())
        seen += len(batch.labels)
        if apart.any():
            with torch.no_grad():
                triggered = trigger(batch.images[apart])
            hits += int((outputs(network, triggered).argmax(1) == target).sum())
            others += int(apart.sum())
    return {"acc": right / max(1, seen), "asr": hits / max(1, others)}


def as_bytes(images: torch.Tensor) -> np.ndarray:
    """float [0, 1] [n, C, H, W] -> uint8, contiguous."""
    found: np.ndarray = (images * 255).round().to(torch.uint8).cpu().contiguous().numpy()
    return found


def as_floats(pixels: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """uint8 [n, C, H, W] -> float in [0, 1] on the device and in the type of ``like``."""
    return torch.from_numpy(pixels).to(like.device, like.dtype).div_(255)


def affine(picture: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """(1 - mask) x + mask picture as clip(a x + b): picture [C, H, W] in [0, 1], mask [1, H, W] in [0, 1]."""
    a = np.broadcast_to(1 - mask, picture.shape).astype(np.float32)
    return {"a": a, "b": (mask * picture).astype(np.float32)}


def rounded(images: torch.Tensor) -> torch.Tensor:
    """Clipped and rounded to 8 bits; gradients pass as if they were not rounded."""
    clipped = images.clamp(0, 1)
    return clipped + (as_floats(as_bytes(clipped.detach()), clipped) - clipped).detach()


def drive(optimiser: torch.optim.Optimizer, loss: torch.Tensor, variables: Sequence[torch.Tensor]) -> None:
    """One step of ``loss`` on ``variables`` alone: what else it reaches gets no gradient."""
    for variable, gradient in zip(variables, torch.autograd.grad(loss, list(variables)), strict=True):
        variable.grad = gradient
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def outputs(network: Any, images: torch.Tensor) -> torch.Tensor:
    """Logits of a network that is being trained, as it would give them in use: eval mode, no gradient."""
    network.eval()
    with torch.no_grad():
        logits: torch.Tensor = network(images)
    network.train()
    torch.clear_autocast_cache()  # else the next pass would reuse these weights' casts, which carry no gradient
    return logits
