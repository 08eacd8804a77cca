"""RobustKD+, our own: follow the teacher where the labels agree, and unlearn what it obeys and an honest network does not.

From the method card robustkd 6.3.
"""

from __future__ import annotations

import copy
import math
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from ..losses import soft_target_kl
from ..perturb.universal import Predict, universal
from ..training import Context, Settings, fit
from .base import Distiller, freeze
from .kd import LogitDistillationSettings
from .overhaul import Overhaul, OverhaulSettings
from .scratch import Scratch

if TYPE_CHECKING:
    from ..data import Batch

SEARCHED = 64  # images per step of the search
COUNTED = 4  # batches of the search on which is counted how many networks a perturbation fools


class RobustKDPlusSettings(OverhaulSettings, LogitDistillationSettings):
    base: Literal["both", "features", "logits"] = Field(
        "both", description="what the student copies: features, as overhaul, outputs, as kd, or both"
    )
    agree: bool = Field(True, description="follow the teacher only on images whose label it shares")
    views: int = Field(
        8,
        ge=0,
        description="random crops of every image that the teacher's outputs are averaged over, once; 0: none, the "
        "teacher sees what the student sees in every step",
    )
    bound: float = Field(0.1, gt=0, le=1, description="largest change of a pixel by a perturbation, in [0, 1]")
    share: float = Field(0.5, ge=0, le=1, description="share of every batch that is also shown perturbed; 0: none")
    weight: float = Field(0.5, ge=0, description="weight of cross-entropy on perturbed images")
    keep: float = Field(
        1.0,
        ge=0,
        description="weight of the term by which the honest network is not fooled; 0: any perturbation counts",
    )
    search_steps: int = Field(30, ge=1, description="steps that find each class's perturbation before training")
    honest_epochs: float = Field(
        0.5, gt=0, le=1, description="epochs of the honest network, as a share of the student's"
    )
    wash: float = Field(0.0, ge=0, le=1, description="share of the epochs, at the end, without the teacher")

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> RobustKDPlusSettings:
        idle: dict[str, set[str]] = {
            "base=logits": set(OverhaulSettings.model_fields) if self.base == "logits" else set(),
            "base=features": {*LogitDistillationSettings.model_fields, "views"} if self.base == "features" else set(),
            "share=0 or weight=0": set() if self.share and self.weight else {"bound", "keep", "search_steps"},
        }
        for reason, names in idle.items():
            for name in sorted(names):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} does nothing with {reason}")
        return self


class RobustKDPlus(Overhaul):
    """Overhaul and Hinton KD on the images whose label the teacher shares, the latter by its mean outputs over several crops,
    in which a trace that hangs on exact pixels averages out, + weight · CE(S(x + δ_k), y), k at random.

    δ_k, one per class, universal, found on the teacher before training: images look like class k to it while a network of
    the student's kind that was trained on the labels alone (the honest one) is not fooled. What both networks are blind
    to is no backdoor's work, and unlearning it would cost accuracy for nothing. The other images follow their labels. No
    trigger, no test image is needed. An end without the teacher (``wash``) cost accuracy and took nothing more away.
    """

    Config: ClassVar[type[Settings]] = RobustKDPlusSettings
    true_labels = True
    every_image = True

    perturbations: torch.Tensor  # [K, C, H, W], or of length 0
    counted: torch.Tensor  # images [N, C, H, W]

    def prepare(self, context: Context) -> None:
        config = self.config
        if config.base == "logits":
            Distiller.prepare(self, context)
        else:
            super().prepare(context)
        self.first_alone = math.ceil(round((1 - config.wash) * context.config.epochs, 6))
        self.epoch = 0
        self.said = self._averaged(context) if config.views and config.base != "features" else None
        self.perturbations, self.fooled = torch.empty(0), {}
        if not config.share or not config.weight:
            return
        honest = self._honest(context)
        every = chain.from_iterable(context.batches.epoch(number) for number in count())
        batches = [batch.images[:SEARCHED].float() for batch in islice(every, config.search_steps)]
        with torch.no_grad():
            classes = self.teacher(batches[0]).shape[1]
        self.perturbations = torch.stack(
            [
                universal(
                    self.teacher,
                    batches,
                    k,
                    bound=config.bound,
                    honest=honest if config.keep else None,
                    weight=config.keep,
                )
                for k in range(classes)
            ]
        )
        self.counted = torch.cat(batches[-COUNTED:])
        self.fooled = {"teacher": self._fooled(self.teacher), "honest": self._fooled(honest)}

    @torch.no_grad()
    def _averaged(self, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's mean logits [N, K] by index, and which images it saw at all: bool [N]."""
        count = len(context.batches.labels)
        times, total = torch.zeros(count, device=context.device), torch.zeros(0)
        for number in range(self.config.views):
            for batch in context.batches.epoch(number):
                logits = self.teacher(batch.images).float()
                total = total if len(total) else torch.zeros(count, logits.shape[1], device=context.device)
                total.index_add_(0, batch.index, logits)
                times[batch.index] += 1
        return total / times.clamp_min(1)[:, None], times > 0

    def _taught(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's logits [N, K] for a batch, and on which images to follow them: bool [N]."""
        if self.said is None:
            with torch.no_grad():
                teacher = self.teacher(batch.images).float()
            follow = torch.ones_like(batch.labels, dtype=torch.bool)
        else:
            said, seen = self.said
            teacher, follow = said[batch.index], seen[batch.index]  # the last ones may have been in no batch then
        return teacher, follow & (teacher.argmax(1) == batch.labels) if self.config.agree else follow

    def _honest(self, context: Context) -> Any:
        """A network of the student's kind after some epochs of the labels alone, frozen."""
        network: Any = copy.deepcopy(context.student)
        epochs = max(1, round(self.config.honest_epochs * context.config.epochs))
        fit(
            network,
            Scratch(Settings()),
            context.batches,
            context.config.model_copy(update={"epochs": epochs}),
            folder=None if context.folder is None else context.folder / "honest",
            progress=context.progress,
            identity={**context.identity, "epochs": epochs},
            what="honest",
        )
        freeze(network)
        return network

    @torch.no_grad()
    def _fooled(self, predict: Predict) -> list[float | None]:
        """Of the images that are not taken for class k, the share that its perturbation makes so, for every k; None of none."""
        before = predict(self.counted).argmax(1)
        after = [predict((self.counted + change).clamp(0, 1)).argmax(1) for change in self.perturbations]
        others = [before != k for k in range(len(after))]
        return [
            float((said[rest] == k).float().mean()) if rest.any() else None
            for k, (said, rest) in enumerate(zip(after, others, strict=True))
        ]

    def start_epoch(self, number: int) -> None:
        super().start_epoch(number)
        self.epoch = number

    def modules(self) -> tuple[nn.Module, ...]:
        return () if self.config.base == "logits" else super().modules()

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        size = len(batch.images)
        changed = self._changed(batch.images[: round(self.config.share * size)])
        student = self.student.sites(torch.cat([batch.images, changed]))
        logits = student.logits.float()
        terms = self._distilled(batch, logits[:size], [target[:size] for target in student.targets])
        if len(changed):
            terms["perturbed"] = self.config.weight * F.cross_entropy(logits[size:], batch.labels[: len(changed)])
        return terms

    def _changed(self, images: torch.Tensor) -> torch.Tensor:
        """The images with perturbations drawn at random; none where there are none."""
        if not len(self.perturbations):
            return images[:0]
        which = torch.randint(len(self.perturbations), (len(images),), device=images.device)
        return (images.float() + self.perturbations[which]).clamp(0, 1).to(images.dtype)

    def _distilled(self, batch: Batch, student: torch.Tensor, features: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Terms of the clean images, from the student's logits [N, K] and its features of them."""
        own = F.cross_entropy(student, batch.labels, reduction="none")
        if self.epoch >= self.first_alone:
            return {"ce": own.mean()}
        config = self.config
        teacher, follow = self._taught(batch)
        alpha, share = config.alpha if config.base != "features" else 0.0, follow.float().mean()
        terms = {"ce": ((1 - alpha * follow.float()) * own).mean()}
        if alpha and follow.any():
            terms["kd"] = alpha * share * soft_target_kl(student[follow], teacher[follow], config.temperature)
        if config.base != "logits" and follow.any():
            distance = self.distance(batch.images, features, follow)
            terms["features"] = self.share * self.beta / len(batch.images) * distance
        return terms

    @property
    def report(self) -> dict[str, Any]:
        """fooled: of teacher, honest network and student, per class, the share of images that its perturbation moves there."""
        base = {} if self.config.base == "logits" else super().report
        if not self.fooled:
            return base
        training = self.student.training
        self.student.eval()
        found = {**self.fooled, "student": self._fooled(self.student)}
        self.student.train(training)
        return {**base, "fooled": found}
