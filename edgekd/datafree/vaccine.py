"""The shuffling vaccine (Hong et al., ICML 2023, arXiv 2306.02368): what a teacher with shuffled channels still obeys is suspect."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ..data.streams import shuffled as permutation
from ..losses import log_distance, lower_tail, suspicious, vaccine_term
from ..training import Settings

BATCH = 500
MOST_FLAGGED = 0.5  # of a pool, beyond which the vaccine says more about itself than about the images
REFUSED = {
    "one class": "named one class for too many of the images",
    "no tail": "had no tail of suspicious images",
}


class VaccineSettings(Settings):
    copies: int = Field(3, ge=1, le=32, description="shuffled copies whose logits are averaged")
    layers: int = Field(5, ge=1, description="last convolutions whose input channels are shuffled")
    weight: float = Field(
        0.1, ge=0, description="weight of the vaccine's term in a generator's loss, the paper's alpha"
    )
    most: float = Field(2.0, gt=0, description="upper limit of that term, in nats per image; the paper has none")
    suspect_weight: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="weight of a fixed pool's suspicious images in the student's loss; a negative one pushes away from "
        "the teacher, -0.1 in the authors' code",
    )
    accept: Literal["mad", "mean", "always"] = Field(
        "mad",
        description="when a shuffled teacher counts as a vaccine: with a lower tail beyond median - 3 MAD, or mean - 3 "
        "std as in the paper; always: without a check",
    )
    deviations: float = Field(3.0, gt=0, description="how far below the middle the tail begins, in standard deviations")
    tail: float = Field(0.02, ge=0, le=1, description="share of the images that the tail must hold")
    # Half: beyond it the mask is little but that one class's images, whatever is on them; a shuffle that tells something
    # apart leaves clean images scattered. The paper has no such limit, and its mask then takes a class for a backdoor.
    most_named: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the images that a shuffled teacher may put into one class; 1: any, as published",
    )
    most_of_a_class: float = Field(
        0.2,
        gt=0,
        le=1,
        description="share of a fixed pool's images of one class, by the teacher, that may be suspects, the least "
        "distant first; 1: all, as published, which can remove a class",
    )
    trials: int = Field(8, ge=1, description="shuffles tried before giving up on a vaccine")
    pool: int = Field(4096, ge=64, description="images that a shuffled teacher is judged on")


class Look(NamedTuple):
    """What a shuffle shows of itself: its lower tail by either rule, and the largest share of images it names one class for."""

    mad: float
    mean: float
    named: float


class Vaccine(nn.Module):
    """T̃: the mean logits of ``copies`` of the teacher, the input channels of its last convolutions permuted in each.

    A shuffle is a gather before the convolution, which equals permuted weights and needs no copy of them. Which trial was
    taken is a buffer, permutations follow from it and the seed. In FP32 throughout: what is told apart lies at 1e-3 nats.
    """

    trial: torch.Tensor
    looks: torch.Tensor
    driven: torch.Tensor

    def __init__(self, config: VaccineSettings, seed: int) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self.register_buffer("trial", torch.tensor(-2))  # -2: not searched yet, -1: none was accepted
        self.register_buffer("looks", torch.full((config.trials, len(Look._fields)), -1.0))
        self.register_buffer("driven", torch.zeros(2, dtype=torch.int64))  # a generator's images, the suspects of them

    @property
    def searched(self) -> bool:
        return int(self.trial) > -2

    @property
    def on(self) -> bool:
        return int(self.trial) >= 0

    def search(self, teacher: nn.Module, images: torch.Tensor) -> None:
        """Try shuffles until one has a tail of suspicious images and does not name one class for most of them.

        images [N, C, H, W], synthetic, float or bytes.
        """
        logits = _batched(lambda part: plain(teacher, part), images)
        for trial in range(self.config.trials):
            self._look(teacher, images, logits, trial)
            if not self.refused(trial):
                self.trial.fill_(trial)
                return
        self.trial.fill_(-1)

    def look_on(self, teacher: nn.Module, images: torch.Tensor) -> None:
        """Look at the trials that ``search`` did not come to, for a report that compares rules; what it took stays."""
        logits = _batched(lambda part: plain(teacher, part), images)
        for trial in range(len(self._seen), self.config.trials):
            self._look(teacher, images, logits, trial)

    def _look(self, teacher: nn.Module, images: torch.Tensor, logits: torch.Tensor, trial: int) -> None:
        other = _batched(lambda part: self._logits(teacher, part, trial), images)
        distance, deviations = log_distance(logits, other), self.config.deviations
        named = float(torch.bincount(other.argmax(1)).max()) / len(other)
        look = Look(lower_tail(distance, "mad", deviations), lower_tail(distance, "mean", deviations), named)
        self.looks[trial] = torch.tensor(look)

    @property
    def _seen(self) -> list[Look]:
        return [Look(*look) for look in self.looks.tolist() if look[0] >= 0]

    def refused(self, trial: int, rule: str | None = None) -> list[str]:
        """Why a trial that was looked at is no vaccine, keys of ``REFUSED``; rule: instead of the setting ``accept``."""
        look, rule = self._seen[trial], rule or self.config.accept
        if rule == "always":
            return []
        tail = look.mean if rule == "mean" else look.mad
        why = {"one class": look.named > self.config.most_named, "no tail": tail <= self.config.tail}
        return [name for name, found in why.items() if found]

    def forward(self, teacher: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Logits [N, K] of the shuffled teacher; gradients reach the images."""
        return self._logits(teacher, images, int(self.trial))

    def term(self, teacher: nn.Module, images: torch.Tensor, logits: torch.Tensor | None = None) -> torch.Tensor:
        """What a generator's loss is given for its images; 0 where there is no vaccine.

        logits [N, K]: the teacher's of these images in FP32, where they are there already.
        """
        if not self.on:
            return images.new_zeros(())
        logits = plain(teacher, images) if logits is None else logits
        other = self(teacher, images)
        suspects = suspicious(logits, other)
        self.driven += torch.stack([torch.ones_like(suspects), suspects]).sum(1)
        return vaccine_term(logits, other, self.config.weight, self.config.most)

    @torch.no_grad()
    def flagged(self, teacher: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Which images, float or bytes, are suspicious, bool [N]; none where there is no vaccine."""
        return self.distances(teacher, images).isfinite()

    @torch.no_grad()
    def distances(self, teacher: nn.Module, images: torch.Tensor, logits: torch.Tensor | None = None) -> torch.Tensor:
        """The log-distance of suspicious images, float64 [N], the least the most suspicious; infinite for all others.

        logits [N, K]: as for ``term``. Looked at in pieces where the teacher is, which after a training is not where the
        source is.
        """
        found = torch.full((len(images),), torch.inf, dtype=torch.float64, device=images.device)
        if self.on:
            home = next(teacher.parameters(), images).device
            for start in range(0, len(images), BATCH):
                part = slice(start, start + BATCH)
                shown = as_float(images[part].to(home))
                known = plain(teacher, shown) if logits is None else logits[part].to(home)
                other = self(teacher, shown)
                found[part] = (
                    log_distance(known, other).masked_fill(~suspicious(known, other), torch.inf).to(found.device)
                )
        return found

    def drop(self) -> None:
        """As if no shuffle had been accepted."""
        self.trial.fill_(-1)

    def _logits(self, teacher: nn.Module, images: torch.Tensor, trial: int) -> torch.Tensor:
        found = []
        for copy in range(self.config.copies):
            orders = self.orders(teacher, trial, copy)
            with _shuffled(orders):
                found.append(plain(teacher, images))
        return torch.stack(found).mean(0)

    def orders(self, teacher: nn.Module, trial: int, copy: int) -> list[tuple[nn.Conv2d, torch.Tensor]]:
        """The permutation of the input channels of each shuffled convolution."""
        return [
            (part, torch.from_numpy(permutation(part.in_channels, self.seed, "vaccine", trial, copy, number)))
            for number, part in enumerate(last_convolutions(teacher, self.config.layers))
        ]

    @property
    def report(self) -> dict[str, Any]:
        """trials: every shuffle that was looked at, accepted or not, and why not; suspected: share of what a generator made."""
        trials = [
            {**{name: round(share, 6) for name, share in look._asdict().items()}, "refused": self.refused(trial)}
            for trial, look in enumerate(self._seen)
        ]
        found = {"accepted": self.on, "trial": int(self.trial), "trials": trials}
        made, suspects = self.driven.tolist()
        return {**found, "suspected": suspects / made} if made else found


def last_convolutions(teacher: nn.Module, count: int) -> list[nn.Conv2d]:
    """The last ``count`` convolutions with more than one input channel, in the order of the network's parts."""
    return [part for part in teacher.modules() if isinstance(part, nn.Conv2d) and part.in_channels > 1][-count:]


def as_float(images: torch.Tensor) -> torch.Tensor:
    """Images [N, C, H, W] in [0, 1], kept as floats or as bytes."""
    return images if images.is_floating_point() else images.float().div(255)


def plain(teacher: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The teacher's logits in FP32, whatever precision the loop is in."""
    with torch.autocast(images.device.type, enabled=False):
        logits: torch.Tensor = teacher(images.float())
    return logits


@contextlib.contextmanager
def _shuffled(orders: list[tuple[nn.Conv2d, torch.Tensor]]) -> Iterator[None]:
    def hook(order: torch.Tensor) -> Callable[..., torch.Tensor]:
        return lambda _, inputs: inputs[0].index_select(1, order.to(inputs[0].device))

    hooks = [part.register_forward_pre_hook(hook(order)) for part, order in orders]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


@torch.no_grad()
def _batched(predict: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    return torch.cat([predict(as_float(part)) for part in torch.split(images, BATCH)])


def doubt(flagged: np.ndarray | torch.Tensor) -> str | None:
    """A sentence where so much is suspicious that the shuffle cannot have told anything apart."""
    share = float(flagged.mean() if isinstance(flagged, np.ndarray) else flagged.double().mean())
    if share <= MOST_FLAGGED:
        return None
    return (
        f"The shuffling vaccine suspects {share:.0%} of the images: it hardly changed the teacher, so its "
        "mask says little. It was not used."
    )


def none_accepted(report: dict[str, Any]) -> str | None:
    """A sentence where there is no vaccine, by its ``Vaccine.report``: why."""
    trials = report["trials"]
    if not trials:
        return (
            "No shuffled teacher was searched for as a vaccine, as the training ended before this source has images to "
            "judge one on: give it more train.epochs."
        )
    counts = {said: sum(name in each["refused"] for each in trials) for name, said in REFUSED.items()}
    if not all(each["refused"] for each in trials):
        return None
    said = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"No shuffled teacher was accepted as a vaccine: of {len(trials)} trials {said}."


def capped(distances: np.ndarray, labels: np.ndarray, share: float) -> np.ndarray:
    """The suspects among images by their distances [N], at most a ``share`` of each class's images: the least distant.

    What a shuffled teacher happens to name for everything would otherwise be taken away as a whole.
    """
    found = np.zeros(len(distances), bool)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        nearest = where[np.argsort(distances[where], kind="stable")]
        found[nearest[: int(share * len(where))]] = True
    found &= np.isfinite(distances)
    return found
