"""CRD (Tian et al. 2020): a contrastive loss pairs each image's embedding in the student with the teacher's, against other images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ..errors import UsageError
from ..losses import noise_contrastive, soft_target_kl
from ..training import Context, Settings
from .base import cross_entropy
from .features import FeatureDistiller, Pair, pooled, sample

if TYPE_CHECKING:
    from ..data import Batch
    from ..models import Sites


SIDES = 2  # student, teacher


class ContrastiveDistillationSettings(Settings):
    beta: float = Field(0.8, ge=0, description="weight of the contrastive loss")
    negatives: int = Field(
        16384, ge=1, le=1 << 20, description="other images that each image is contrasted with, drawn every step"
    )
    dim: int = Field(128, ge=1, le=4096, description="length of an embedding; two are kept for every training image")
    contrast: float = Field(0.07, gt=0, description="temperature of the embeddings' similarity")
    momentum: float = Field(0.5, ge=0, lt=1, description="share of a kept embedding that goes into its successor")
    kd: float = Field(0.0, ge=0, description="weight of Hinton KD beside it; the paper's CRD+KD uses 1")
    temperature: float = Field(4.0, gt=0, description="softens both outputs in Hinton KD")


class ContrastiveDistillation(FeatureDistiller):
    """CE + beta · (NCE of student's embeddings among the teacher's, + the reverse) + kd · T² · KL.

    Embeddings are a linear map of the deepest site, after its activation and averaged over positions, at length 1. Those
    of all images are kept from the last time they were seen; the negatives are of other classes, their draw is shared by
    a batch, and where there are no more images than ``negatives`` all of them count, in proportion.
    """

    Config: ClassVar[type[Settings]] = ContrastiveDistillationSettings
    every_image = True

    memory: Memory

    @classmethod
    def kept_bytes(cls, config: Any, images: int) -> int:
        return 4 * SIDES * images * int(config.dim)

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        labels = context.batches.labels
        if bool((labels == labels[0]).all()):
            raise UsageError(
                "crd contrasts images of different classes, and all of these are of one class. Use another method."
            )
        self.memory = Memory(self.pairs[0], labels, self.config, context.config.seed).to(context.device)
        with torch.no_grad():
            self.memory.measure(self._embedded(*self.both(next(sample(context.batches, 1)))))

    def choose(self, pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        return pairs[-1:]

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        teacher, student = self.both(batch.images)
        embedded = self._embedded(teacher, student)
        terms = {
            "ce": cross_entropy(student.logits, batch.labels),
            "features": self.config.beta * self.memory(embedded, batch.labels, batch.index),
        }
        self.memory.keep(embedded, batch.index)
        if self.config.kd:
            terms["kd"] = self.config.kd * soft_target_kl(student.logits, teacher.logits, self.config.temperature)
        return terms

    def _embedded(self, teacher: Sites, student: Sites) -> torch.Tensor:
        vectors = [pooled(sites.targets[-1].relu(), (1, 1)).flatten(1) for sites in (student, teacher)]
        return self.memory.embedded(vectors)

    def modules(self) -> tuple[nn.Module, ...]:
        return (self.memory,)

    @property
    def report(self) -> dict[str, Any]:
        images = len(self.memory.labels)
        kept = {"images": images, "bytes": self.kept_bytes(self.config, images)}
        return {**super().report, "kept": kept, "negatives": self.memory.rows}


class Memory(nn.Module):
    """The linear maps of both networks, and of every training image its last embedding by each, from a seeded random one.

    Thrown away after training.
    """

    kept: torch.Tensor
    labels: torch.Tensor
    noise: torch.Tensor

    def __init__(self, pair: Pair, labels: torch.Tensor, config: ContrastiveDistillationSettings, seed: int) -> None:
        super().__init__()
        self.config = config
        self.heads = nn.ModuleList(nn.Linear(c, config.dim) for c in (pair.student_channels, pair.teacher_channels))
        random = torch.randn(SIDES, len(labels), config.dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("kept", F.normalize(random, dim=2))  # [2, M, dim]
        self.register_buffer("noise", torch.zeros(SIDES))  # log(K · Z / M) of each side
        self.register_buffer("labels", labels, persistent=False)

    @property
    def rows(self) -> int:
        """How many of the kept embeddings a step looks at."""
        return min(self.config.negatives, len(self.labels))

    def embedded(self, vectors: list[torch.Tensor]) -> torch.Tensor:
        """The features [B, C] of both sides as [2, B, dim], each of length 1."""
        return torch.stack([F.normalize(head(v).float(), dim=1) for head, v in zip(self.heads, vectors, strict=True)])

    def drawn(self) -> torch.Tensor:
        """Which kept embeddings are the negatives of this step, int64 [rows]."""
        if self.rows == len(self.labels):
            return torch.arange(self.rows, device=self.labels.device)
        return torch.randint(len(self.labels), (self.rows,), device=self.labels.device)

    def similar(self, embedded: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Of each side's embeddings to what the other side keeps of ``rows``: [2, B, rows], by temperature."""
        with torch.autocast(embedded.device.type, enabled=False):
            return embedded @ self.kept[:, rows].flip(0).mT / self.config.contrast

    def measure(self, embedded: torch.Tensor) -> None:
        """Fix the noise's level: Z is estimated once, before the first step."""
        found = self.similar(embedded, self.drawn()).flatten(1)
        self.noise.copy_(found.logsumexp(1) - math.log(found.shape[1]) + math.log(self.config.negatives))

    def forward(self, embedded: torch.Tensor, labels: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The loss of both sides, for embeddings [2, B, dim] of the images ``index``; a scalar."""
        rows = self.drawn()
        other = (self.labels[rows] != labels[:, None]).float()
        weights = other * (self.config.negatives / other.sum(1, keepdim=True).clamp_min(1))
        negative = self.similar(embedded, rows)
        positive = (embedded * self.kept[:, index].flip(0)).sum(2) / self.config.contrast
        sides = [noise_contrastive(positive[side], negative[side], weights, self.noise[side]) for side in range(SIDES)]
        return torch.stack(sides).sum()

    @torch.no_grad()
    def keep(self, embedded: torch.Tensor, index: torch.Tensor) -> None:
        """Move what is kept of the images ``index`` towards their embeddings."""
        share = self.config.momentum
        self.kept[:, index] = F.normalize(share * self.kept[:, index] + (1 - share) * embedded, dim=2)
