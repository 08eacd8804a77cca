"""CMI (Fang et al., IJCAI 2021): images inverted from the teacher's batch statistics, kept apart by a contrastive bank."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ..data import Batch, Batches, ImageSet
from ..data.streams import shuffled
from ..losses import disagreement, matched_pairs, statistics_distance
from ..training import Settings
from .bank import Bank, Head, Watched
from .base import Source, View, histogram, pixels
from .generator import Generator, refill, views

BETAS = (0.5, 0.999)
SEARCH_AFTER = 2  # rounds whose finished images the vaccine is searched on
SCHEDULE = {"schedule": "cosine", "lr": 0.1, "weight_decay": 1e-4}
TAUGHT = {"alpha": 1.0, "temperature": 20.0}
STREAM = 10_000  # orders of the pool that an epoch may need


class InversionSettings(Settings):
    images: int = Field(256, ge=4, description="images that each round, which is one epoch, adds to the pool")
    inversion_steps: int = Field(200, ge=1, description="steps of generator and noise in a round")
    student_steps: int = Field(400, ge=1, description="steps of the student in an epoch, on the whole pool")
    latent: int = Field(256, ge=1, description="noise values per image")
    width: int = Field(128, ge=8, description="channels of the generator")
    lr: float = Field(1e-3, gt=0, description="Adam's learning rate for generator, noise and projection")
    statistics: float = Field(1.0, ge=0, description="weight of matching the batch statistics")
    named: float = Field(1.0, ge=0, description="weight of the cross-entropy with the drawn classes")
    adversarial: float = Field(0.5, ge=0, description="weight of the student's disagreement")
    contrast: float = Field(0.8, ge=0, description="weight of the contrastive term")
    temperature: float = Field(0.1, gt=0, description="temperature of the contrastive term")
    bank: int = Field(4096, ge=1, description="features of earlier images that are kept; published: 40,960")
    negatives: int = Field(4096, ge=1, description="how many of them are drawn in a step")


class Best(NamedTuple):
    """The step with the lowest loss of a round."""

    loss: float
    images: torch.Tensor
    local: torch.Tensor
    wide: torch.Tensor


class ContrastiveInversion(Source):
    """Every epoch: a round of inversion from fresh weights, then ``student_steps`` batches of all images so far.

    Statistics, features and the vaccine's term are in FP32. Ours: a smaller bank; the pool is in memory, as bytes. Beside
    ABD's code: Nesterov momentum (``train.nesterov=false`` is theirs); the vaccine's weight of 0.1 on a sum over classes,
    where they average (theirs is 0.1 over the number of classes); a search on finished images, so that the first rounds go
    without a vaccine, which no option changes.
    """

    Config = InversionSettings
    needs = "statistics"
    presets: ClassVar[dict[str, Any]] = {
        "fast": {"train": {"epochs": 20, **SCHEDULE}, "kd": TAUGHT},
        "full": {"train": {"epochs": 200, **SCHEDULE}, "kd": TAUGHT},
    }

    def open(self, view: View) -> None:
        fresh = not hasattr(self, "kept")
        self.view, self.steps = view, self.config.student_steps
        self.norms = Watched(view.teacher.teacher)
        if fresh:
            shape = self.spec.input.shape
            self.generator = Generator(shape, self.config.latent, self.config.width, plain=True)
            self.kept = nn.Module()
            self.kept.register_buffer(
                "images", torch.zeros((self.train.epochs * self.config.images, *shape), dtype=torch.uint8)
            )
            self.kept.register_buffer("filled", torch.tensor(0))
            wide = self.norms.width
            self.bank, self.head = Bank(self.config.bank, wide), Head(wide, self.train.seed)
        for part in (*self.modules(), self.generator):
            part.to(view.device)
        if fresh:
            self.adam = torch.optim.Adam(self.head.parameters(), lr=self.config.lr)

    def shortened(self, steps: int) -> tuple[dict[str, Any], float, int]:
        share = min(1.0, steps / self.config.student_steps)
        few = {name: max(1, round(share * getattr(self.config, name))) for name in ("student_steps", "inversion_steps")}
        return few, 1.0, self.config.student_steps

    def kept_bytes(self, teacher: nn.Module) -> int:
        images = self.train.epochs * self.config.images * math.prod(self.shape)
        return int(images + self.config.bank * 2 * 4 * Watched(teacher).width)

    def modules(self) -> tuple[nn.Module, ...]:
        parts: tuple[nn.Module, ...] = (self.kept, self.bank, self.head)
        return parts if self.vaccine is None else (*parts, self.vaccine)

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return (self.adam,)

    @property
    def pool(self) -> torch.Tensor:
        """uint8 [N, C, H, W], all images so far."""
        return self.kept.get_buffer("images")[: int(self.kept.get_buffer("filled"))]

    def epoch(self, number: int) -> Iterator[Batch]:
        """A round, unless ``still``; then batches of the pool, shifted and mirrored, with the teacher's labels."""
        pool = self._drawn() if self.still and not len(self.pool) else self.pool
        if not self.still:
            if self.vaccine is not None and not self.vaccine.searched and number >= SEARCH_AFTER:
                self.vaccine.search(self.view.teacher.teacher, self.pool)
            self._round(number)
            pool = self.pool
        images = ImageSet(pool.cpu().numpy(), np.zeros(len(pool), np.int64), ("none",), "cmi")
        batches = Batches(images, self.train.batch_size, seed=self.train.seed, device=self.view.device)
        first = STREAM * (number + self.still * self.train.epochs)
        stream = (batch for k in count(first) for batch in batches.epoch(k))
        for batch in islice(stream, self.steps):
            with torch.no_grad(), self.bf16():
                logits = self.view.teacher.teacher(batch.images).float()
            self.view.teacher.tell(batch.images, logits)
            yield Batch(batch.images, logits.argmax(1), batch.index)

    @torch.no_grad()
    def _drawn(self) -> torch.Tensor:
        """What fresh weights make of noise, for a look before the first round."""
        refill(self.generator, torch.Generator().manual_seed(self.train.seed))
        noise = self.noise((self.config.images, self.config.latent), "look")
        return torch.from_numpy(pixels(self.generator(noise)))

    def _round(self, number: int) -> None:
        """Invert ``images`` images, and add those of the best step to pool and bank."""
        config, size, device = self.config, self.config.images, self.view.device
        draws = torch.Generator().manual_seed(int(shuffled(2**20, self.train.seed, "cmi", number)[0]))
        refill(self.generator, draws)
        noise = torch.randn(size, config.latent, generator=draws).to(device).requires_grad_(True)
        classes = torch.randint(self.spec.num_classes, (size,), generator=draws).sort().values.to(device)
        adam = torch.optim.Adam([*self.generator.parameters(), noise], lr=config.lr, betas=BETAS)
        mode, best = self.view.student.training, None
        self.view.student.eval()
        for _ in range(config.inversion_steps):
            images = self.generator(noise)
            loss, local, wide = self._loss(images, classes, draws)
            reached = float(loss.detach())
            if best is None or reached < best.loss:
                best = Best(reached, images.detach(), local.detach(), wide.detach())
            parameters = [*self.generator.parameters(), noise, *self.head.parameters()]
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            adam.step()
            self.adam.step()
        self.adam.zero_grad(set_to_none=True)  # so that the loop's own step of this optimiser moves nothing
        self.view.student.train(mode)
        assert best is not None
        self.bank.add(best.local, best.wide)
        filled = int(self.kept.get_buffer("filled"))
        if filled + size <= len(self.kept.get_buffer("images")):
            self.kept.get_buffer("images")[filled : filled + size] = torch.from_numpy(pixels(best.images)).to(device)
            self.kept.get_buffer("filled").add_(size)

    def _loss(
        self, images: torch.Tensor, classes: torch.Tensor, draws: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The round's loss, and the features [N, D] of both views."""
        config, teacher = self.config, self.view.teacher.teacher
        first, second = views(images, draws)
        logits, inputs = self.norms(first)  # its norms' inputs, before the next call overwrites them
        wide = self.norms.pooled(inputs)
        local = self.norms.pooled(self.norms(second)[1])
        loss = config.statistics * statistics_distance(inputs, self.norms.running)
        loss = loss + config.named * F.cross_entropy(logits, classes)
        if config.adversarial:
            loss = loss - config.adversarial * disagreement(self.view.student(first), logits)
        if config.contrast:
            past = self.bank.sample(config.negatives, draws)
            queries = self.head(torch.cat([local, past[0]]))
            keys = self.head(torch.cat([wide, past[1]]))
            loss = loss + config.contrast * matched_pairs(queries, keys, len(images), config.temperature)
        if self.vaccine is not None:
            loss = loss + self.vaccine.term(teacher, first, logits)
        return loss, local, wide

    def collect(self, count: int, seed: int) -> np.ndarray:
        found = self.pool
        if self.vaccine is not None and self.vaccine.on:
            free = found[~self.vaccine.flagged(self.view.teacher.teacher, found)]
            found = free if len(free) else found
        order = torch.from_numpy(shuffled(len(found), seed, "collect")[:count]).to(found.device)
        images: np.ndarray = found[order].cpu().numpy()
        return images

    @property
    def report(self) -> dict[str, Any]:
        with torch.no_grad():
            parts = [self.view.teacher.teacher(part.float().div(255)) for part in torch.split(self.pool, 500)]
        found: dict[str, Any] = {"images": len(self.pool), "classes": histogram(torch.cat(parts))}
        return found if self.vaccine is None else {**found, "vaccine": self.vaccine.report}
