"""Teacher and student features side by side: which sites are paired, at what size, with which margins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from .base import Distiller, Needs

if TYPE_CHECKING:
    from ..models import Sites
    from ..training import Context
    from ..training.method import BatchSource

Edit = Callable[[int, torch.Tensor], torch.Tensor]  # site, raw feature -> what the next layer receives


@dataclass(frozen=True)
class Pair:
    """One site of the teacher and one of the student, compared at the smaller of their sizes."""

    teacher: int
    student: int
    teacher_channels: int
    student_channels: int
    size: tuple[int, int]

    @property
    def elements(self) -> int:
        return self.teacher_channels * self.size[0] * self.size[1]


def as_map(feature: torch.Tensor) -> torch.Tensor:
    """A feature [N, C, H, W]; one of a fully connected layer, [N, C], becomes a map of 1 x 1."""
    return feature if feature.dim() == 4 else feature.flatten(1)[:, :, None, None]


def pair_sites(teacher: Iterable[torch.Tensor], student: Iterable[torch.Tensor]) -> tuple[Pair, ...]:
    """Pair features from the deepest backwards; where one network has more sites, its first ones stay alone."""
    pairs = []
    teachers, students = ([as_map(feature).shape for feature in features] for features in (teacher, student))
    for depth in range(1, min(len(teachers), len(students)) + 1):
        (_, t_channels, *t_size), (_, s_channels, *s_size) = teachers[-depth], students[-depth]
        size = min(t_size[0], s_size[0]), min(t_size[1], s_size[1])
        pairs.append(Pair(len(teachers) - depth, len(students) - depth, t_channels, s_channels, size))
    return tuple(pairs[::-1])


def pooled(feature: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A feature as a map of ``size``: averaged down where it is larger."""
    feature = as_map(feature)
    return feature if tuple(feature.shape[2:]) == size else F.adaptive_avg_pool2d(feature, size)


def active(pair: Pair, teacher: Sites, student: Sites) -> tuple[torch.Tensor, torch.Tensor]:
    """The target and the student's map of a pair behind their ReLU, [N, C, H, W] at its size."""
    return (
        pooled(teacher.targets[pair.teacher].relu(), pair.size),
        pooled(student.targets[pair.student].relu(), pair.size),
    )


class FeatureDistiller(Distiller):
    """A method that compares sites of both networks; ``choose`` says which of the pairs."""

    needs: ClassVar[Needs] = "sites"

    pairs: tuple[Pair, ...]  # that are compared

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.student.eval()  # else a look would move its running statistics
        with torch.no_grad():
            teacher, student = self.both(next(sample(context.batches, 1)))
        self.pairs = self.choose(pair_sites(teacher.targets, student.targets))

    def choose(self, pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        """The pairs to compare, of all there are."""
        return pairs

    def seen(self, images: torch.Tensor) -> Sites:
        """What the teacher shows; no gradients."""
        with torch.no_grad():
            sites: Sites = self.teacher.sites(images)
        return sites

    def both(self, images: torch.Tensor) -> tuple[Sites, Sites]:
        """What teacher and student show of images [N, C, H, W] in one pass each."""
        return self.seen(images), self.student.sites(images)

    @property
    def report(self) -> dict[str, Any]:
        return {
            "sites": [
                {"teacher": pair.teacher, "student": pair.student, "size": list(pair.size)} for pair in self.pairs
            ]
        }


def sample(batches: BatchSource, images: int) -> Iterator[torch.Tensor]:
    """Batches of about ``images`` training images, the same ones every time."""
    for batch in batches.epoch(0):
        yield batch.images
        images -= len(batch.images)
        if images <= 0:
            return


@torch.no_grad()
def empirical_margins(targets: Iterable[Iterable[torch.Tensor]]) -> list[torch.Tensor]:
    """E[z | z < 0] per channel, [C] for each site, over batches of target maps; 0 where no element is negative."""
    sums: list[torch.Tensor] = []
    counts: list[torch.Tensor] = []
    for features in targets:
        for site, feature in enumerate(features):
            low = feature.double().clamp_max(0).sum(dim=(0, 2, 3))
            count = (feature < 0).double().sum(dim=(0, 2, 3))
            if site == len(sums):
                sums.append(torch.zeros_like(low))
                counts.append(torch.zeros_like(low))
            sums[site] += low
            counts[site] += count
    return [(total / count.clamp_min(1)).float() for total, count in zip(sums, counts, strict=True)]


class Connectors(nn.Module):
    """What stands between student and teacher features: a 1 x 1 convolution with batch-norm per pair, and the margins.

    Weights N(0, 2 / (k·k·C_out)) as in Heo et al. 2019, from a generator of their own. Thrown away after training.
    """

    def __init__(self, pairs: tuple[Pair, ...], margins: list[torch.Tensor], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.paths = nn.ModuleList()
        for index, (pair, margin) in enumerate(zip(pairs, margins, strict=True)):
            convolution = nn.Conv2d(pair.student_channels, pair.teacher_channels, 1, bias=False)
            with torch.no_grad():
                convolution.weight.normal_(0, math.sqrt(2 / pair.teacher_channels), generator=generator)
            self.paths.append(nn.Sequential(convolution, nn.BatchNorm2d(pair.teacher_channels)))
            self.register_buffer(f"margin{index}", margin.detach().clone())

    def margin(self, index: int) -> torch.Tensor:
        margin: torch.Tensor = getattr(self, f"margin{index}")
        return margin

    def forward(self, index: int, feature: torch.Tensor) -> torch.Tensor:
        mapped: torch.Tensor = self.paths[index](feature)
        return mapped
