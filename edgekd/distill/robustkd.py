"""RobustKD (Chen et al. 2024): detoxify the teacher's features, then overhaul distillation towards them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from ..errors import UsageError
from ..training import Context, Settings, TrainConfig, fit
from ..training.chunks import Chunks
from .base import Distiller
from .detox import Detox, Detoxification, DetoxifiedTeacher, DetoxSettings, measure
from .features import sample
from .kd import LogitDistillationSettings, hinton
from .overhaul import Overhaul, OverhaulSettings

if TYPE_CHECKING:
    from ..data import Batch

SWEEP = (1.0, 0.3, 0.1, 0.03)


class RobustKDSettings(DetoxSettings, OverhaulSettings, LogitDistillationSettings):
    """Both stages; margins are measured on the detoxified features, so leave them empirical."""

    base: Literal["features", "logits"] = Field(
        "features",
        description="what the student copies from the detoxified teacher: features, as in overhaul, or outputs, as in kd",
    )
    permuted: bool = Field(
        False, description="a control: trained offsets on channels drawn at random, of equal norm at every site"
    )

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> RobustKDSettings:
        plain = LogitDistillationSettings()
        if self.base == "features" and (self.temperature, self.alpha) != (plain.temperature, plain.alpha):
            raise ValueError("temperature and alpha go with base=logits; the weight of features is beta")
        return self


class RobustKD(Overhaul):
    """Stage 1 trains offsets on the frozen teacher's features (detox.py), stage 2 is ``Overhaul`` on the result.

    With ``base=logits``, which is ours, stage 2 is Hinton KD of the detoxified teacher's outputs instead.

    The student is an ordinary network: offsets, masks and connectors never leave the training.
    """

    Config: ClassVar[type[Settings]] = RobustKDSettings
    true_labels = True

    detox: Detox

    def prepare(self, context: Context) -> None:
        with torch.no_grad():
            first = next(iter(context.batches.epoch(0))).images
            raw = self.teacher.sites(first).raw
        self._shapes = tuple(feature.shape[1:] for feature in raw)
        self._raw_accuracy = None if context.accuracy is None else context.accuracy(self.teacher)
        self.sweep: list[dict[str, float]] = []
        self._detoxify(context)
        if self.config.permuted:
            self.detox.permute(context.config.seed)
            if context.accuracy is not None:
                self._accuracy = context.accuracy(DetoxifiedTeacher(self.teacher, self.detox))
        self.edit = self.detox.edit
        self._measure(context)
        if self.config.base == "logits":
            Distiller.prepare(self, context)
        else:
            super().prepare(context)

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        if self.config.base == "features":
            return super().step(batch)
        with torch.no_grad():
            teacher = self.teacher.sites(batch.images, self.edit).logits
        return hinton(self.student(batch.images), teacher, batch.labels, self.config)

    def modules(self) -> tuple[nn.Module, ...]:
        return super().modules() if self.config.base == "features" else ()

    def _detoxify(self, context: Context) -> None:
        wanted = self.config.lambda_f
        if wanted != "auto":
            self._stage1(context, wanted)
            return
        if self._raw_accuracy is None:
            raise UsageError(
                "lambda_f=auto is chosen on validation images, and there are none. Set distill.lambda_f to a number."
            )
        for lambda_f in SWEEP:
            accuracy = self._stage1(context, lambda_f)
            if accuracy >= self._raw_accuracy - self.config.max_drop:
                return

    def _stage1(self, context: Context, lambda_f: float) -> float:
        """Train one Detox; the accuracy of its last state, before a bad one is taken back."""
        detox = Detox(self._shapes, self.config)
        config: TrainConfig = context.config
        steps = max(self.config.detox_steps, math.ceil(self.config.detox_epochs * context.batches.steps))
        chunk = min(self.config.guard_every, steps)
        method = Detoxification(self.teacher, self.config, lambda_f, self.config.margin_images, self._raw_accuracy)
        accuracy = context.accuracy
        log = fit(
            detox,
            method,
            Chunks(context.batches, chunk),
            config.model_copy(
                update={
                    "epochs": math.ceil(steps / chunk),
                    "lr": self.config.detox_lr,
                    "schedule": "cosine",
                    "warmup_epochs": 0,
                    "validate_every": 1,
                }
            ),
            folder=None if context.folder is None else context.folder / f"detox-{lambda_f:g}",
            validate=None if accuracy is None else lambda net: {"acc": accuracy(DetoxifiedTeacher(self.teacher, net))},
            progress=context.progress,
            identity={**context.identity, "lambda_f": lambda_f},
            what="detoxify",
        )
        self.detox, self.lambda_f, self.steps = detox, lambda_f, log.steps
        last = log.history[-1].get("acc", math.nan)
        self.sweep.append({"lambda_f": lambda_f, "acc": last})
        self.restored = method.least is not None and last < method.least
        if self.restored:
            detox.restore()
        self._accuracy = float(detox.good_accuracy) if self.restored else last
        detox.requires_grad_(False)
        return last

    @torch.no_grad()
    def _measure(self, context: Context) -> None:
        images = sample(context.batches, self.config.margin_images)
        after = measure(self.teacher, images, self.config.variance_mode, self.detox.edit)
        pairs = zip((seen.variance for seen in after), self.detox.variance, strict=True)
        self._ratios = [float(variance / before.clamp_min(1e-12)) for variance, before in pairs]
        self._norms = {str(site): float(self.detox.offset(site).norm()) for site in self.detox.sites}

    @property
    def report(self) -> dict[str, Any]:
        raw = self._raw_accuracy
        return {
            **(super().report if self.config.base == "features" else {}),
            "detox": {
                "lambda_f": self.lambda_f,
                "steps": self.steps,
                "acc_raw": raw,
                "acc_detox": None if raw is None else self._accuracy,
                "within_max_drop": None if raw is None else self._accuracy >= raw - self.config.max_drop,
                "restored": self.restored,
                "variance_ratio": self._ratios,
                "offset_norm": self._norms,
                "sweep": [] if raw is None else self.sweep,
            },
        }
