"""KDIGA (Shao et al. 2021): the student's input gradients match the teacher's, so that robustness carries over without an attack."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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


class KDIGASettings(VettedSettings):
    ce_weight: float = Field(0.5, ge=0, description="weight of the labels")
    kd_weight: float = Field(0.5, ge=0, description="weight of Hinton KD")
    temperature: float = Field(1.0, gt=0, description="temperature of that Hinton KD; a robust teacher is soft already")
    slope_weight: float = Field(
        1.0,
        ge=0,
        description="weight of the distance between input gradients; the paper's form collapses above 1, while with "
        "softened gradients a whole decade works alike",
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
        description="controls: zero, a penalty on the student's input gradients that needs no teacher; shuffled, those "
        "of another image",
    )
    agree: bool = Field(True, description="compare input gradients only on images whose label the teacher shares")
    rise: float = Field(
        0.15, ge=0, le=1, description="share of the steps in which the weight of the input gradients rises linearly"
    )
    noise: Fraction = Field(
        0.0, ge=0, le=1, description="largest change of a pixel by uniform noise, in [0, 1]; 0: none"
    )


class KDIGA(Distiller):
    """ce_weight · CE + kd_weight · τ² · KL(teacher ‖ student) + w · mean_i ‖g_S,i - g_T,i‖, g = ∂/∂x of T · CE(z / T, y).

    Differs from the published code, whose first version detached g_S and learned nothing from it: distances are taken per
    image and averaged, where it takes one norm of a whole batch of a mean's gradients and divides by the batch (their gamma
    is w · B^1.5); KL is summed over classes; T = 4 by default, the method card's proposal, T = 1 being the paper's.
    Gradients of the weights are clipped at 5. The weight is halved after each epoch in which the student's slopes are
    below a twentieth of the first epoch's and its accuracy below that of its best; the student goes on as it is, where the
    method card would put it back to an earlier epoch.

    It costs two to three times Hinton KD. What it gains is the teacher's only beyond what ``teacher_slopes`` zero and
    shuffled gain, which on small data is little or nothing: otherwise it is a gradient penalty. It refuses a teacher that was not audited (see vetting).
    """

    Config: ClassVar[type[Settings]] = KDIGASettings
    needs: ClassVar[Needs] = "gradients"

    batch = 0  # of the epoch that runs
    halvings = 0

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.steps = context.batches.steps
        self.gauge = Gauge(self.epochs).to(context.device)

    def modules(self) -> tuple[nn.Module, ...]:
        return (self.gauge,)

    def start_epoch(self, number: int) -> None:
        self.epoch, self.batch = number, 0
        self.halvings = self.gauge.collapses(number)

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
            said, theirs = self._slopes(self.teacher, images, batch.labels, train=False)
            student, ours = self._slopes(self.student, images, batch.labels, train=True)
            said, theirs = said.detach(), theirs.detach()
            shared = (said.argmax(1) == batch.labels).float() if config.agree else torch.ones(len(said)).to(said)
            apart = slope_distance(ours, self._shown(theirs), config.distance)
            self.gauge.note(self.epoch, ours, theirs, student.argmax(1) == batch.labels)
            slopes = {"slopes": self._weight() * (shared * apart).mean()}
            return self._taught(student, said, batch.labels) | slopes

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

    def _shown(self, slopes: torch.Tensor) -> torch.Tensor:
        """The teacher's slopes, or what a control has in their place."""
        if self.config.teacher_slopes == "zero":
            return torch.zeros_like(slopes)
        if self.config.teacher_slopes == "shuffled" and len(slopes) > 1:
            return slopes.roll(int(torch.randint(1, len(slopes), ())), dims=0)  # never its own
        return slopes

    def _weight(self) -> float:
        done = (self.epoch * self.steps + self.batch) / (self.epochs * self.steps)
        self.batch += 1
        risen = min(1.0, done / self.config.rise) if self.config.rise else 1.0
        return float(self.config.slope_weight * risen * 0.5**self.halvings)

    def update(self, step: Callable[[], None]) -> None:
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        step()

    @property
    def report(self) -> dict[str, Any]:
        """Per epoch, means over images: the lengths of student's and teacher's slopes, their distance and cosine, accuracy.

        Nothing of that, and no halvings, where the weight of the slopes is 0: none were computed.
        """
        diary = self.gauge.diary()
        return {"slopes": diary, "halvings": self.gauge.collapses(self.epochs) if diary else None}


class Gauge(nn.Module):
    """What became of the slopes, by epoch; a buffer, so that a continued run keeps it."""

    sums: torch.Tensor

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(epochs, len(FIGURES), dtype=torch.float64))

    @torch.no_grad()
    def note(self, epoch: int, ours: torch.Tensor, theirs: torch.Tensor, right: torch.Tensor) -> None:
        """Add a batch: slopes [N, ...] of student and teacher, flags [N]."""
        zero = torch.zeros_like(ours)
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
        rows = [row for row in self.sums.tolist() if row[0]]
        return [
            {"epoch": number + 1, **{name: value / row[0] for name, value in zip(FIGURES[1:], row[1:], strict=True)}}
            for number, row in enumerate(rows)
        ]
