"""ZSKT (Micaelli and Storkey, NeurIPS 2019): a generator looks for images on which student and teacher differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ..data import Batch
from ..data.streams import below
from ..losses import class_balance, kl_each
from ..training import Settings, TrainConfig
from ..training.schedule import factor
from .base import Source, View, pixels
from .generator import Generator

SEARCH_AFTER = 1  # epochs, after which the generator's images are what the vaccine is searched on
LOPSIDED = 0.6  # share of one class among the images from which on the generator is told to balance them
SCHEDULE = {"schedule": "cosine", "augment": "none"}
TAUGHT = {"alpha": 1.0, "temperature": 1.0}
CLIP = 5.0  # of the gradient's length


class AdversarialSettings(Settings):
    rounds: int = Field(50, ge=1, description="steps of the generator in an epoch; published: 80,000 in all")
    student_steps: int = Field(10, ge=1, description="steps of the student on the images of a round")
    latent: int = Field(100, ge=1, description="noise values per image")
    width: int = Field(64, ge=8, description="channels of the generator; published: 128, four times the work")
    generator_lr: float = Field(
        1e-3, gt=0, description="Adam's learning rate for the generator; falls as half a cosine"
    )
    balance: float = Field(
        1.0,
        ge=0,
        description="weight of balanced classes, while the teacher puts more than 0.6 of a batch into one class",
    )
    student_lr: float = Field(2e-3, gt=0, description="peak learning rate of Adam on the student; instead of train.lr")


class AdversarialGenerator(Source):
    """One step of the generator on −KL(T ‖ S) [+ balance + vaccine], then ``student_steps`` batches of its new images.

    Lean, as nothing is computed twice: images are made once a round and detached, the teacher is asked once (the batches
    hand its answer to the method), in bf16 where the run is. The student stands still in eval mode in the generator's step.
    Published: images re-made for each of the student's steps, the student's batch norms move in both. No option brings
    back the mean over classes in both losses (ours sum, which the clip at 5 then cuts earlier), nor the attention term.
    """

    Config = AdversarialSettings
    needs = "gradients"
    presets: ClassVar[dict[str, Any]] = {
        "fast": {"train": {"epochs": 40, **SCHEDULE}, "kd": TAUGHT},
        "full": {"train": {"epochs": 1600, **SCHEDULE}, "kd": TAUGHT},
    }

    generator: Generator

    def open(self, view: View) -> None:
        fresh = not hasattr(self, "generator")
        self.view = view
        self.steps = self.config.rounds * self.config.student_steps
        if fresh:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.train.seed)
                self.generator = Generator(self.spec.input.shape, self.config.latent, self.config.width)
            self.seen = nn.Module()
            self.seen.register_buffer("classes", torch.zeros(self.spec.num_classes, dtype=torch.int64))
        for part in self.modules():
            part.to(view.device)
        if fresh:
            self.adam = torch.optim.Adam(self.generator.parameters(), lr=self.config.generator_lr)

    def shortened(self, steps: int) -> tuple[dict[str, Any], float, int]:
        rounds = min(self.config.rounds, max(1, steps // self.config.student_steps))
        return {"rounds": rounds}, 1.0, self.config.rounds * self.config.student_steps

    def modules(self) -> tuple[nn.Module, ...]:
        parts: tuple[nn.Module, ...] = (self.generator, self.seen)
        return parts if self.vaccine is None else (*parts, self.vaccine)

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return (self.adam,)

    def optimizer(self, parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.config.student_lr)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of ``rounds`` rounds; with ``still`` the generator stays as it is."""
        if self.vaccine is not None and not self.vaccine.searched and number >= SEARCH_AFTER:
            self.vaccine.search(self.view.teacher.teacher, self._some(self.vaccine.config.pool, "vaccine pool"))
        kind = "still" if self.still else "noise"
        for index in range(self.config.rounds):
            noise = self.noise((self.train.batch_size, self.config.latent), kind, number, index)
            if not self.still:
                self._step(noise, number * self.config.rounds + index)
            images, logits = self._images(noise)
            for _ in range(self.config.student_steps):
                self.view.teacher.tell(images, logits)
                yield Batch(images, logits.argmax(1), torch.arange(len(images), device=images.device))

    def _step(self, noise: torch.Tensor, step: int) -> None:
        """One step of the generator."""
        student, teacher = self.view.student, self.view.teacher.teacher
        mode = student.training
        student.eval()
        images = self.generator(noise).contiguous(memory_format=torch.channels_last)
        with self.bf16():
            taught, learned = teacher(images), student(images)
        loss = -kl_each(taught, learned).mean()
        share = float(torch.bincount(taught.argmax(1), minlength=taught.shape[1]).max()) / len(images)
        if share > LOPSIDED:
            loss = loss + self.config.balance * class_balance(taught)
        if self.vaccine is not None:
            loss = loss + self.vaccine.term(teacher, images, taught if taught.dtype == torch.float32 else None)
        parameters = list(self.generator.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, CLIP)
        total = self.train.epochs * self.config.rounds
        for group in self.adam.param_groups:
            group["lr"] = self.config.generator_lr * factor("cosine", min(step, total - 1), total)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)  # so that the loop's own step of this optimiser moves nothing
        student.train(mode)

    @torch.no_grad()
    def _images(self, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and the teacher's logits."""
        images = self.generator(noise).contiguous(memory_format=torch.channels_last)
        with self.bf16():
            logits = self.view.teacher.teacher(images).float()
        if not self.still:
            self.seen.get_buffer("classes").add_(torch.bincount(logits.argmax(1), minlength=logits.shape[1]))
        return images, logits

    @torch.no_grad()
    def _some(self, count: int, *names: str | int) -> torch.Tensor:
        """``count`` images of the generator as it is."""
        size, made = self.train.batch_size, []
        for index in range(-(-count // size)):
            made.append(self.generator(self.noise((size, self.config.latent), *names, index)))
        return torch.cat(made)[:count]

    def collect(self, count: int, seed: int) -> np.ndarray:
        images = self._some(count, "collect", seed)
        if self.vaccine is None or not self.vaccine.on:
            return pixels(images)
        free = torch.nonzero(~self.vaccine.flagged(self.view.teacher.teacher, images)).flatten()
        if not len(free):
            return pixels(images)
        again = torch.from_numpy(below(len(free), count, seed, "again")).to(free.device)
        return pixels(images[torch.cat([free, free[again]])[:count]])

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = {"classes": self.seen.get_buffer("classes").tolist()}
        return found if self.vaccine is None else {**found, "vaccine": self.vaccine.report}
