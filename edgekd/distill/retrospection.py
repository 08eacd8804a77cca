"""Self-retrospection (Hong et al., ICML 2023, arXiv 2306.02368): the student unlearns the perturbation that moves it most."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from ..losses import kl_each
from ..perturb import implicit_term, largest_curvature
from ..training import Context, Method, Settings, TrainConfig
from .norms import still

if TYPE_CHECKING:
    from ..data import Batch

CLIP = 5.0  # of the gradient's length
LEAST_STEPS, SHARE_OF_STEPS = 400, 0.01  # of the training before it
Loss = Callable[[torch.Tensor], torch.Tensor]  # of a perturbation; a scalar


class RetrospectionSettings(Settings):
    steps: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="steps of the student after its training; may grow by a few, to split into equal pieces of at most "
        "50; auto: a hundredth of the training's steps, 400 at least",
    )
    lr: float = Field(
        5e-4, gt=0, description="peak learning rate of a fresh Adam on the student; falls as half a cosine"
    )
    share: float = Field(
        0.25, gt=0, le=1, description="share of a batch that carries the perturbation; published: 0.02"
    )
    search: Literal["share", "batch"] = Field(
        "share",
        description="images on which the perturbation is searched for: those that carry it, or all, as published",
    )
    inner_steps: int = Field(10, ge=1, description="steps of the search; 20 leaves a lower ASR")
    units: Literal["pixels", "normalized"] = Field(
        "pixels",
        description="what inner_lr, deviation, pull and rate measure a perturbation in: pixels in [0, 1]; or those over "
        "the student's std, as in the authors' code, with an inner_lr of 0.1, a pull of 0.001 and a rate of 0.1",
    )
    inner_lr: float = Field(0.02, gt=0, description="Adam's learning rate for the perturbation")
    start: Literal["noise", "zero"] = Field(
        "noise",
        description="starting point of the perturbation; zero as in the authors' code, where it has no gradient at first",
    )
    deviation: float = Field(0.02, gt=0, description="standard deviation of that noise")
    pull: float = Field(0.025, ge=0, description="weight of the perturbation's squared length in its own loss")
    bound: float | None = Field(
        0.2,
        gt=0,
        description="largest change of a pixel, in [0, 1] whatever the units; none: unbounded, as in the authors' code",
    )
    by: Literal["student", "teacher"] = Field(
        "student",
        description="which network the perturbation is searched on; the authors' code takes the teacher for CMI and "
        "patches",
    )
    norms: Literal["still", "moving"] = Field(
        "still",
        description="batch norms on perturbed images: still uses their running statistics and leaves them be; moving "
        "uses the batch's and updates them, as in the authors' code",
    )
    rate: float = Field(
        4e-3, gt=0, description="upper limit of the fixed-point map's rate, which is also kept at or below 1/curvature"
    )
    terms: int = Field(5, ge=1, description="terms of the fixed-point series, the paper's K")
    weight: float = Field(
        1.0, ge=0, description="weight beside the distillation; 0: as many steps without it, a control at equal budget"
    )
    max_drop: float = Field(
        0.1,
        ge=0,
        le=1,
        description="agreement with the teacher that it may cost, in the mean over classes and without images that an "
        "accepted vaccine suspects; beyond that it is undone",
    )

    def length(self, trained: int) -> int:
        """Steps after a training of ``trained`` steps."""
        return max(LEAST_STEPS, round(SHARE_OF_STEPS * trained)) if self.steps == "auto" else self.steps


class SelfRetrospection(Method):
    """min_θ L(θ) + max_δ KL(S(x) ‖ S(x + δ)): the method's own loss, and one perturbation δ for all images of a batch.

    δ is sought anew in each step, from noise; the gradient of what it does also counts how δ moves with θ, by ``terms`` of
    the fixed-point series. S(x) is a reference and gets no gradient. Labels are not needed. Ours beside what the options
    say: x + δ is cut to [0, 1], the map's rate is held below 1 over the curvature at an epoch's start. Of the authors' code
    no option brings back the loss at the distillation's temperature, SGD for the student (CMI), a step without clipping.

    Defaults are the authors' 0.1, 0.1, 0.001 and 0.1 of an image normalised by 0.2, in pixels: a rate of steps and a
    deviation by the factor 0.2, the pull by 1/0.2², the map's rate by 0.2².
    """

    def __init__(
        self, method: Method, config: RetrospectionSettings, teacher: nn.Module, std: tuple[float, ...]
    ) -> None:
        self.method, self.config, self.teacher = method, config, teacher
        unit = std if config.units == "normalized" else (1.0,) * len(std)
        self.scale = torch.tensor(unit).view(1, -1, 1, 1)  # pixels per unit of a perturbation

    def prepare(self, context: Context) -> None:
        self.student: Any = context.student
        self.scale = self.scale.to(context.device)
        self._begin()
        self.method.prepare(context)

    def start_epoch(self, number: int) -> None:
        self._begin()
        self.method.start_epoch(number)

    def _begin(self) -> None:
        self.rate: float | None = None
        self.seen: list[
            torch.Tensor
        ] = []  # per step: mean size of the perturbation in pixels, divergence before and after

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        terms = self.method.step(batch)  # the only pass in which batch norms may move
        if not self.config.weight:
            return terms
        images = batch.images.float()
        number = max(1, round(self.config.share * len(images)))
        with torch.autocast(images.device.type, enabled=False), self._norms():
            sought = images if self.config.search == "batch" else images[:number]
            with torch.no_grad():
                reference = self.student(sought)
            delta, before = self.sought(sought, reference)
            inner = self._inner(self.student, sought, reference)
            part = number / len(images)

            def outer(delta: torch.Tensor) -> torch.Tensor:
                moved = self.student(self._changed(images[:number], delta))
                return part * kl_each(reference[:number], moved).mean()

            if self.rate is None:
                self.rate = self._safe_rate(inner, delta)
            value, lead = hypergradient(inner, outer, delta, self.rate, self.config.terms)
            self.seen.append(torch.stack([(delta * self.scale).abs().mean(), before, value.detach() / part]))
        return {**terms, "retrospection": self.config.weight * value, "lead": self.config.weight * lead}

    def sought(self, images: torch.Tensor, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The perturbation [1, C, H, W], in the settings' units, that moves the outputs most, and the divergence at its start."""
        network, told = self.student, reference
        if self.config.by == "teacher":
            network = self.teacher
            with torch.no_grad():
                told = network(images)
        delta = torch.zeros_like(images[:1])
        if self.config.start == "noise":
            delta = self.config.deviation * torch.randn_like(delta)
        delta.requires_grad_(True)
        adam = torch.optim.Adam([delta], lr=self.config.inner_lr)
        inner = self._inner(network, images, told)
        before = None
        for _ in range(self.config.inner_steps):
            loss = inner(delta)
            if before is None:
                before = (self.config.pull * delta.square().sum() - loss).detach()
            (delta.grad,) = torch.autograd.grad(loss, delta)
            adam.step()
            if self.config.bound is not None:
                with torch.no_grad():
                    delta.copy_(delta.minimum(self.config.bound / self.scale).maximum(-self.config.bound / self.scale))
        assert before is not None
        return delta.detach(), before

    def _inner(self, network: Any, images: torch.Tensor, reference: torch.Tensor) -> Loss:
        def inner(delta: torch.Tensor) -> torch.Tensor:
            moved = network(self._changed(images, delta))
            loss: torch.Tensor = self.config.pull * delta.square().sum() - kl_each(reference, moved).mean()
            return loss

        return inner

    def _changed(self, images: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        return (images + delta * self.scale).clamp(0, 1)

    def _safe_rate(self, inner: Loss, delta: torch.Tensor) -> float:
        delta = delta.clone().requires_grad_(True)
        slope = torch.autograd.grad(inner(delta), delta, create_graph=True)
        curvature = largest_curvature(slope, [delta], (slope[0].detach(),))
        return min(self.config.rate, 1 / max(curvature, 1e-12))

    def _norms(self) -> contextlib.AbstractContextManager[None]:
        """Passes that leave running statistics as they are, unless the settings say otherwise."""
        return still(self.student) if self.config.norms == "still" else contextlib.nullcontext()

    def update(self, step: Callable[[], None]) -> None:
        nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        self.method.update(step)

    def modules(self) -> tuple[nn.Module, ...]:
        return self.method.modules()

    def optimizer(self, parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=config.lr)

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return self.method.own_optimizers()

    def finished(self, figures: Mapping[str, float]) -> bool:
        return self.method.finished(figures)

    @property
    def report(self) -> dict[str, Any]:
        """The method's own, and of the last epoch the rate of the fixed-point map and what the search did, in the mean."""
        size, before, after = torch.stack(self.seen).mean(0).tolist() if self.seen else (None, None, None)
        return {**self.method.report, "rate": self.rate, "search": {"pixels": size, "before": before, "after": after}}


def hypergradient(
    inner: Loss, outer: Loss, delta: torch.Tensor, rate: float, terms: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two scalars: the outer loss at ``delta``, and a term that is worth nothing but its gradient.

    The gradient of their sum for whatever else both losses depend on is that of the outer loss at δ*(θ), the solution of the
    inner one near ``delta``: ∂_θ L_out − rate · ∂_θ ⟨∇_δ L_in, v⟩, v = Σ_{k < terms} (I − rate H)^k ∂_δ L_out.
    """
    delta = delta.detach().requires_grad_(True)
    value = outer(delta)
    (first,) = torch.autograd.grad(value, delta, retain_graph=True)
    (slope,) = torch.autograd.grad(inner(delta), delta, create_graph=True)
    return value, implicit_term((slope,), [delta], (first.detach(),), rate, terms)
