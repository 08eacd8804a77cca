"""Stage 1 of RobustKD: bounded offsets on the teacher's features, trained on clean images to lower their variance.

Chen et al. 2024 (arXiv 2406.03409). The paper publishes neither the form of the variance penalty nor its weight nor the
optimiser; we take a scale-free penalty, a smooth box for the mask and Adam. Its rate for p is in deviations of each
site's features, and p is per channel by default: cross-entropy's gradient for one element is mostly noise, and within
some hundred steps an offset per element only walks at random (for thousands of steps: granularity chw, detox_lr 0.01).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import nn

from ..errors import UsageError
from ..losses import feature_variance
from ..losses.features import VarianceMode
from ..training import Context, Method, Settings, TrainConfig
from .base import cross_entropy
from .features import Edit, sample

if TYPE_CHECKING:
    from ..data import Batch


class DetoxSettings(Settings):
    """Settings of stage 1."""

    mode: Literal["add", "blend"] = Field("add", description="F + m·p, or (1 - m)·F + m·p")
    tau: float = Field(0.2, ge=0, le=1, description="upper bound of the mask m")
    granularity: Literal["chw", "c"] = Field(
        "c", description="chw: one p and m per element, needs thousands of steps; c: one per channel, needs hundreds"
    )
    variance_mode: VarianceMode = Field("map", description="map, channel, or (with mode blend) sample")
    lambda_f: float | Literal["auto"] = Field(
        0.1, description="weight of the variance penalty; auto: the largest that keeps validation accuracy"
    )
    detox_ce: float = Field(
        1.0, ge=0, description="weight of cross-entropy in stage 1; 0: the penalty alone, a control"
    )
    detox_sites: int | None = Field(
        None, ge=1, description="how many sites to detoxify, counted from the deepest; default: all"
    )
    detox_steps: int = Field(300, ge=1, description="steps of stage 1, rounded up to a multiple of guard_every")
    detox_epochs: float = Field(0, ge=0, description="stage 1 in epochs; the larger of the two counts")
    detox_lr: float = Field(
        3e-2, gt=0, description="Adam's learning rate for p, in standard deviations of the site's features"
    )
    detox_mask_lr: float = Field(5e-2, gt=0, description="Adam's learning rate for the mask")
    max_drop: float = Field(0.015, ge=0, le=1, description="validation accuracy that detoxification may cost")
    guard_every: int = Field(50, ge=1, description="steps between two checks of validation accuracy")

    @model_validator(mode="after")
    def _refuse_constant_penalties(self) -> DetoxSettings:
        if self.variance_mode == "sample" and self.mode == "add":
            raise ValueError(
                "variance_mode sample does nothing with mode add: adding the same offset to every image leaves the "
                "variance between images as it is. Take mode blend, or variance_mode map"
            )
        if self.lambda_f != "auto" and self.lambda_f < 0:
            raise ValueError("lambda_f must not be negative")
        return self


class Seen(NamedTuple):
    """A site's features over some images: mean [C, ...], variance in the mode of the penalty, variance over a map."""

    mean: torch.Tensor
    variance: torch.Tensor
    map_variance: torch.Tensor


class Detox(nn.Module):
    """Per site a tensor p and a mask m = tau·sigmoid(u); both fp32, neither a function of the image.

    ``edit`` is what ``models.wrap.Network.sites`` applies to a raw feature before the next layer receives it.
    """

    def __init__(self, shapes: tuple[torch.Size, ...], settings: DetoxSettings) -> None:
        super().__init__()
        self.mode, self.tau, self.granularity = settings.mode, settings.tau, settings.granularity
        self.shapes = shapes
        first = 0 if settings.detox_sites is None else max(len(shapes) - settings.detox_sites, 0)
        self.sites = tuple(range(first, len(shapes)))
        self.p = nn.ParameterDict()
        self.u = nn.ParameterDict()
        for site in self.sites:
            shape = self._shape(shapes[site])
            self.p[str(site)] = nn.Parameter(torch.zeros(shape))
            self.u[str(site)] = nn.Parameter(torch.zeros(shape))
            self.register_buffer(f"good_p{site}", torch.zeros(shape))
            self.register_buffer(f"good_u{site}", torch.zeros(shape))
        self.register_buffer("good_accuracy", torch.tensor(-1.0, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(len(shapes)))  # V0 of the untouched teacher
        self.register_buffer("spread", torch.ones(len(shapes)))  # standard deviation over a feature map

    good_accuracy: torch.Tensor
    variance: torch.Tensor
    spread: torch.Tensor

    def _shape(self, shape: torch.Size) -> torch.Size:
        return shape if self.granularity == "chw" else torch.Size((shape[0], *[1] * (len(shape) - 1)))

    def mask(self, site: int) -> torch.Tensor:
        """m in [0, tau], of p's shape."""
        mask: torch.Tensor = self.tau * torch.sigmoid(self.u[str(site)])
        return mask

    def offset(self, site: int) -> torch.Tensor:
        """m·p, the part of the edit that no image changes."""
        offset: torch.Tensor = self.mask(site) * self.p[str(site)]
        return offset

    def edit(self, site: int, feature: torch.Tensor) -> torch.Tensor:
        """F' of the raw feature F [N, C, ...] of a site. Raises UsageError for a size that p was not made for."""
        if site not in self.sites:
            return feature
        expected = self.shapes[site]
        if feature.shape[1:] != expected and (self.granularity == "chw" or feature.shape[1] != expected[0]):
            raise UsageError(
                f"Detoxification was trained for features {list(expected)} at site {site} and meets "
                f"{list(feature.shape[1:])}: keep the image size, or train it with granularity=c."
            )
        if self.mode == "add":
            return feature + self.offset(site)
        return (1 - self.mask(site)) * feature + self.offset(site)

    @torch.no_grad()
    def begin(self, seen: list[Seen]) -> None:
        """Set p to the mean clean features and remember what the untouched teacher's features are like."""
        for site in self.sites:
            mean = seen[site].mean
            if self.granularity == "c" and mean.dim() > 1:
                mean = mean.mean(dim=tuple(range(1, mean.dim())), keepdim=True)
            self.p[str(site)].copy_(mean)
        self.variance.copy_(torch.stack([each.variance for each in seen]))
        self.spread.copy_(torch.stack([each.map_variance for each in seen]).clamp_min(1e-12).sqrt())

    @torch.no_grad()
    def keep(self, accuracy: float) -> None:
        """Remember this state as the last good one."""
        self.good_accuracy.fill_(accuracy)
        for site in self.sites:
            getattr(self, f"good_p{site}").copy_(self.p[str(site)])
            getattr(self, f"good_u{site}").copy_(self.u[str(site)])

    @torch.no_grad()
    def permute(self, seed: int) -> None:
        """Hand every channel's p and mask to another channel, drawn at random: a control of equal norm."""
        generator = torch.Generator().manual_seed(seed)
        for site in self.sites:
            order = torch.randperm(len(self.p[str(site)]), generator=generator)
            for tensor in (self.p[str(site)], self.u[str(site)]):
                tensor.copy_(tensor[order].clone())

    @torch.no_grad()
    def restore(self) -> None:
        """Return to the last good state."""
        for site in self.sites:
            self.p[str(site)].copy_(getattr(self, f"good_p{site}"))
            self.u[str(site)].copy_(getattr(self, f"good_u{site}"))


class DetoxifiedTeacher(nn.Module):
    """The teacher with its features edited: pixels in, logits out."""

    def __init__(self, teacher: Any, detox: Detox) -> None:
        super().__init__()
        self.teacher, self.detox = teacher, detox

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.teacher.sites(images, self.detox.edit).logits
        return logits


class Detoxification(Method):
    """Stage 1 as a method of the training loop: its student is a ``Detox``, the teacher is only looked through.

    L = CE(T'(x), y) + lambda_f · mean_l Var(F'_l) / V0_l, V0 measured once on the untouched teacher. The mean is over all
    sites, those that ``detox_sites`` leaves alone too.
    """

    def __init__(
        self, teacher: Any, settings: DetoxSettings, lambda_f: float, images: int, raw_accuracy: float | None
    ) -> None:
        self.teacher, self.settings, self.lambda_f, self.images = teacher, settings, lambda_f, images
        self.least = None if raw_accuracy is None else raw_accuracy - settings.max_drop

    def prepare(self, context: Context) -> None:
        assert isinstance(context.student, Detox)
        self.detox = context.student
        self.detox.begin(measure(self.teacher, sample(context.batches, self.images), self.settings.variance_mode))

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        sites = self.teacher.sites(batch.images, self.detox.edit)
        penalty = torch.zeros((), device=batch.images.device)
        for feature, before in zip(sites.raw, self.detox.variance, strict=True):
            penalty = penalty + feature_variance(feature, self.settings.variance_mode) / before.clamp_min(1e-12)
        return {
            "ce": self.settings.detox_ce * cross_entropy(sites.logits, batch.labels),
            "variance": self.lambda_f / len(sites.raw) * penalty,
        }

    def optimizer(self, parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        # Raw features of unnormalised sites are tens wide: an absolute rate would not move p within hundreds of steps.
        groups = [
            {"params": [self.detox.p[str(site)]], "lr": self.settings.detox_lr * float(self.detox.spread[site])}
            for site in self.detox.sites
        ]
        return torch.optim.Adam([*groups, {"params": list(self.detox.u.values()), "lr": self.settings.detox_mask_lr}])

    def finished(self, figures: Mapping[str, float]) -> bool:
        """Keep a state that is good enough; stop at the first that is not after one that was."""
        if self.least is None or "acc" not in figures:
            return False
        best = float(self.detox.good_accuracy)
        if figures["acc"] >= self.least or (best < self.least and figures["acc"] > best):
            self.detox.keep(figures["acc"])  # before the first good enough, the best seen
            return False
        return best >= self.least


@torch.no_grad()
def measure(teacher: Any, images: Iterable[torch.Tensor], mode: VarianceMode, edit: Edit | None = None) -> list[Seen]:
    """What every (edited) raw feature is like over batches of images, in float32."""
    sums: list[Seen] = []
    count = 0
    for batch in images:
        parts = [
            Seen(
                feature.double().sum(dim=0),
                feature_variance(feature, mode).double() * len(batch),
                feature_variance(feature, "map").double() * len(batch),
            )
            for feature in teacher.sites(batch, edit).raw
        ]
        pairs = zip(sums, parts, strict=True)
        sums = [Seen(*(a + b for a, b in zip(old, new, strict=True))) for old, new in pairs] if sums else parts
        count += len(batch)
    return [Seen(*((total / count).float() for total in each)) for each in sums]
