"""KDIGA (Shao et al. 2021): the student's input gradients match the teacher's, so that robustness carries over without an attack."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from ..losses import input_gradient, slope_distance, soft_target_kl
from ..losses.gradients import Distance
from ..training import Context, Fraction, Settings
from .base import Distiller, Needs, cross_entropy
from .vetting import VettedSettings

if TYPE_CHECKING:
    from ..data import Batch

CLIP = 5.0  # longest gradient of the weights
COLLAPSED = 0.05  # of the first epoch's slopes
FIGURES = ("images", "student", "teacher", "distance", "cosine", "right")
OWN = ("student", "right")  # what needs no slopes of the teacher


class KDIGASettings(VettedSettings):
    ce_weight: float = Field(0.5, ge=0, description="weight of the labels")
    kd_weight: float = Field(0.5, ge=0, description="weight of Hinton KD")
    temperature: float = Field(1.0, gt=0, description="temperature of that Hinton KD; a robust teacher is soft already")
    slope_weight: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="weight of the distance between input gradients; auto: slope_share of the first epoch's "
        "cross-entropy over its distance. A number suits one size of image and one teacher: lengths differ by tens",
    )
    slope_share: float = Field(
        0.5,
        gt=0,
        description="with slope_weight=auto: how large the input gradients' term is beside the cross-entropy; method card: 0.3 to 1",
    )
    slope_temperature: float = Field(
        4.0,
        gt=0,
        description="softens the cross-entropy whose input gradients are compared; at 1, the published form, they nearly "
        "vanish where the teacher is sure",
    )
    distance: Distance = Field("l2", description="distance between input gradients: l2, l1 or cosine")
    teacher_slopes: Literal["own", "zero", "shuffled"] = Field(
        "own",
        description="controls: zero, a penalty on the student's input gradients, though Hinton KD and agree still ask "
        "the teacher; shuffled, those of another image that is compared",
    )
    agree: bool = Field(True, description="compare input gradients only on images whose label the teacher shares")
    rise: float = Field(
        0.15, ge=0, le=1, description="share of the steps in which the weight of the input gradients rises linearly"
    )
    noise: Fraction = Field(
        0.0, ge=0, le=1, description="largest change of a pixel by uniform noise, in [0, 1]; 0: none"
    )


class KDIGA(Distiller):
    """ce_weight · CE + kd_weight · τ² · KL(teacher ‖ student) + w · Σ_i a_i ‖g_S,i - g_T,i‖ / Σ_i a_i, g = ∂/∂x of T · CE(z / T, y).

    a_i: 1 where the teacher's class is the label, else 0 (``agree``), so the mean is over the images that are compared, as
    in version 4 of the published code. w (``auto``): in the first epoch slope_share · mean CE / mean distance so far, from
    then on what it was at that epoch's end; times the rise.

    Differs from the published code, whose first version detached g_S and learned nothing from it: distances are taken per
    image and averaged, where it takes one norm of a whole batch of a mean's gradients and divides by the batch (their gamma
    is w · B^1.5); KL is summed over classes; T = 4 by default, the method card's proposal, T = 1 being the paper's, and
    so are agree, the rise and auto. Gradients of the weights are clipped at 5. The weight is halved after each epoch in
    which the student's slopes are below a twentieth of the first epoch's and its accuracy below that of its best; the
    student goes on as it is, where the method card would put it back to an earlier epoch.
    Left out of the card: margins as what slopes are taken of, relative distances, slopes at attacked images (KDIGA-ARD),
    slopes at every k-th step or of half a batch, and the four terms of its bound.

    It costs two to three times Hinton KD. What it gains is the teacher's only beyond what ``teacher_slopes`` zero and
    shuffled gain, which on small data is little or nothing: otherwise it is a gradient penalty. It refuses a teacher that was not audited (see vetting).
    """

    Config: ClassVar[type[Settings]] = KDIGASettings
    needs: ClassVar[Needs] = "gradients"

    batch = 0  # of the epoch that runs
    halvings = 0
    settled: float | None = None  # the weight after the first epoch

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.steps = context.batches.steps
        self.gauge = Gauge(self.epochs, taught=self.config.teacher_slopes != "zero").to(context.device)
        self.balance = Balance().to(context.device)

    def modules(self) -> tuple[nn.Module, ...]:
        return self.gauge, self.balance

    def start_epoch(self, number: int) -> None:
        self.epoch, self.batch = number, 0
        self.halvings = self.gauge.collapses(number)
        self.settled = self._base() if number else None

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        config = self.config
        with torch.autocast(batch.images.device.type, enabled=False):  # slopes want all their digits
            images = batch.images.detach().float().clone()
            if config.noise:
                images = images + config.noise * (2 * torch.rand_like(images) - 1)
            if not config.slope_weight:  # a second backward pass for nothing
                with torch.no_grad():
                    said = self.teacher(images)
                return self._taught(self.student(images), said, batch.labels)
            images.requires_grad_(True)
            said, theirs = self._asked(images, batch.labels)
            student, ours = self._slopes(self.student, images, batch.labels, train=True)
            shared = said.argmax(1) == batch.labels if config.agree else torch.ones_like(batch.labels, dtype=torch.bool)
            shown = torch.zeros_like(ours) if theirs is None else self._shown(theirs, shared)
            apart = slope_distance(ours, shown, config.distance)
            self.gauge.note(self.epoch, ours, theirs, student.argmax(1) == batch.labels)
            if config.slope_weight == "auto" and not self.epoch:
                self.balance.note(cross_entropy(student, batch.labels), apart, shared)
            distance = (shared * apart).sum() / shared.sum().clamp_min(1)
            return self._taught(student, said, batch.labels) | {"slopes": self._weight() * distance}

    def _taught(self, student: torch.Tensor, said: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The terms beside the slopes."""
        config = self.config
        return {
            "ce": config.ce_weight * cross_entropy(student, labels),
            "kd": config.kd_weight * soft_target_kl(student, said, config.temperature),
        }

    def _slopes(
        self, network: Any, images: torch.Tensor, labels: torch.Tensor, *, train: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = network(images)
        slopes = input_gradient(logits, labels, images, temperature=self.config.slope_temperature, create_graph=train)
        return logits, slopes

    def _asked(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The teacher's outputs, and its slopes unless a control has no use for them."""
        if self.config.teacher_slopes == "zero":
            with torch.no_grad():
                return self.teacher(images), None
        said, theirs = self._slopes(self.teacher, images, labels, train=False)
        return said.detach(), theirs.detach()

    def _shown(self, slopes: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        """The teacher's slopes; shuffled: dealt anew among the ``shared`` images, so that the same set of them counts."""
        index = shared.nonzero()[:, 0]
        if self.config.teacher_slopes == "shuffled" and len(index) > 1:
            others = index.roll(int(torch.randint(1, len(index), ())))  # never its own
            return slopes.index_copy(0, index, slopes[others])
        return slopes

    def _base(self) -> float:
        """The weight without rise and halvings."""
        config = self.config
        return self.balance.weight(config.slope_share) if config.slope_weight == "auto" else config.slope_weight

    def _weight(self) -> float:
        done = (self.epoch * self.steps + self.batch) / (self.epochs * self.steps)
        self.batch += 1
        risen = min(1.0, done / self.config.rise) if self.config.rise else 1.0
        base = self._base() if self.settled is None else self.settled
        return float(base * risen * 0.5**self.halvings)

    def update(self, step: Callable[[], None]) -> None:
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        step()

    @property
    def report(self) -> dict[str, Any]:
        """Per epoch, means over images: the lengths of student's and teacher's slopes, their distance and cosine, accuracy.

        slope_weight: without rise and halvings. Nothing of the teacher's slopes where they are zero; no halvings, and
        nothing per epoch, where the weight of the slopes is 0: none were computed.
        """
        diary = self.gauge.diary()
        halvings = self.gauge.collapses(self.epochs) if diary else None
        return {"slopes": diary, "halvings": halvings, "slope_weight": self._base()}


class Balance(nn.Module):
    """Cross-entropy and distance of the slopes in the first epoch; a buffer, so that a continued run has the same weight."""

    sums: torch.Tensor  # of the cross-entropy and its images, of the distance and its images

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(4, dtype=torch.float64))

    @torch.no_grad()
    def note(self, ce: torch.Tensor, apart: torch.Tensor, shared: torch.Tensor) -> None:
        """Add a batch: its mean cross-entropy, distances [N], and on which images they count, bool [N]."""
        count = torch.full_like(ce, len(apart))
        self.sums += torch.stack([ce * count, count, (shared * apart).sum(), shared.sum().to(ce)]).double()

    def weight(self, share: float) -> float:
        """share · mean cross-entropy / mean distance; 0 while nothing was compared or nothing is apart."""
        ce, images, apart, compared = self.sums.tolist()
        return float(share * ce / images * compared / apart) if apart else 0.0


class Gauge(nn.Module):
    """What became of the slopes, by epoch; a buffer, so that a continued run keeps it."""

    sums: torch.Tensor

    def __init__(self, epochs: int, *, taught: bool = True) -> None:
        """taught: whether there are slopes of a teacher."""
        super().__init__()
        self.taught = taught
        self.register_buffer("sums", torch.zeros(epochs, len(FIGURES), dtype=torch.float64))

    @torch.no_grad()
    def note(self, epoch: int, ours: torch.Tensor, theirs: torch.Tensor | None, right: torch.Tensor) -> None:
        """Add a batch: slopes [N, ...] of student and, where there are some, teacher, flags [N]."""
        zero = torch.zeros_like(ours)
        theirs = zero if theirs is None else theirs
        figures = (
            torch.ones_like(right, dtype=torch.float64),
            slope_distance(ours, zero),
            slope_distance(theirs, zero),
            slope_distance(ours, theirs),
            1 - slope_distance(ours, theirs, "cosine"),
            right,
        )
        self.sums[epoch] += torch.stack([figure.double().sum() for figure in figures])

    def collapses(self, epochs: int) -> int:
        """After how many of the first ``epochs`` the student's slopes were gone and its accuracy was below its best."""
        sums = self.sums[:epochs]
        rows = (sums / sums[:, :1]).tolist()
        student, right = FIGURES.index("student"), FIGURES.index("right")
        return sum(
            row[student] < COLLAPSED * rows[0][student] and row[right] < best
            for row, best in zip(rows, itertools.accumulate((row[right] for row in rows), max), strict=True)
        )

    def diary(self) -> list[dict[str, float]]:
        """A row per epoch, without what was not computed."""
        rows = [row for row in self.sums.tolist() if row[0]]
        told = [name for name in FIGURES[1:] if self.taught or name in OWN]
        return [
            {"epoch": number + 1, **{name: row[FIGURES.index(name)] / row[0] for name in told}}
            for number, row in enumerate(rows)
        ]
