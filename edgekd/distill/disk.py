"""DiSK (Kag et al. 2023): a helper that sees the teacher hides what a small student cannot learn yet, on a budget."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ..losses import budget_excess, capped_cross_entropy, scaffolded_cross_entropy
from ..training import Context, Settings
from .base import Distiller, cross_entropy
from .features import as_map

if TYPE_CHECKING:
    from ..data import Batch

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 3.5, 4.0
DISTILLED, LABELLED = 0.9, 0.1
MOST_CHARGED = 5.0  # nats per image
CHARGE, CHARGE_PERIODS = (1.0, 5.0), 4  # multiplier of the excess, and how often it rises over the training
BUDGET_PERIODS, BUDGET_FALL = 10, 0.9  # how often the budget falls, and what is left of its height each time
WARM_UP = 1 / 40  # of the scaffolded epochs
WIDTHS = (64, 128)  # of the helper
HELPER_RATE = 1e-3
FIGURES = 9


class DiSKSettings(Settings):
    top_k: int | None = Field(
        None,
        ge=1,
        description="classes beside the label that the teacher counts as plausible; default: 10, or half of the classes "
        "where there are fewer than 20",
    )
    budget: float = Field(
        0.6, ge=0, description="what the helper may cost at the start, in nats per misclassified image"
    )
    last_budget: float = Field(
        0.4,
        ge=0,
        description="what the budget falls to in each of ten cosine cycles; each starts at 0.9 times the height of the "
        "one before",
    )
    labels_first: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="share of the epochs, at the start, on labels alone, at least one epoch; 0 if the student starts "
        "from trained weights",
    )
    censor: bool = Field(True, description="false: a control in which the student never sees the helper")


class DiSK(Distiller):
    """0.1 · CE + 0.9 · τ_S τ_T · CE(masked teacher, softmax(z_S / τ_S) + g·m), and beside it the helper g of the teacher's
    deepest features: the same loss + λ · (what it spends - budget)₊ + 0.9 · log(1 + K g). Neither trains the other.

    After the published code, with five differences. One batch is one step of both, not three passes each in turn, so
    that the student gets as many steps as any other method's. The paper starts from a student of the labels alone, 200
    epochs of 800: here that is the first quarter, and in its last epochs the helper warms up. The helper is the code's
    small one (pooled features, 64, 128, 1), as its convolutional one costs more than a student of an edge board;
    Adam trains it, where the code's SGD at 0.1 drove g to 1 on every image within an epoch and no gradient brought it back.
    The student's schedule of rates is the run's own, without restarts; a budget never falls below the last one.

    The helper is charged by the student's cross-entropy, so it is cheapest where it is not needed. The report says
    whether it went to images that the student finds hard: where ``correlation`` is negative it did not.
    """

    Config: ClassVar[type[Settings]] = DiSKSettings
    needs = "sites"
    true_labels = True

    helper: Helper
    batch = 0  # of the epoch that runs
    epoch = 0

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.epochs, self.steps = context.config.epochs, context.batches.steps
        self.first = min(max(1, math.ceil(self.config.labels_first * self.epochs)), self.epochs - 1)
        self.warm = self.first - max(1, round(WARM_UP * (self.epochs - self.first)))
        images = next(iter(context.batches.epoch(0))).images
        with torch.no_grad():
            sites = self.teacher.sites(images)
        classes = sites.logits.shape[1]
        self.top_k = self.config.top_k or min(10, max(1, classes // 2))
        self.helper = Helper(as_map(sites.targets[-1]).shape[1], self.epochs, context.config.seed).to(context.device)

    def modules(self) -> tuple[nn.Module, ...]:
        return (self.helper,)

    def own_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        return (torch.optim.Adam(self.helper.parameters(), lr=HELPER_RATE),)

    def start_epoch(self, number: int) -> None:
        self.epoch, self.batch = number, 0

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        student = self.student(batch.images)
        labelled = cross_entropy(student, batch.labels)
        done = self.epoch - self.first + self.batch / self.steps
        self.batch += 1
        if self.epoch < self.warm:
            return {"ce": labelled}
        with torch.no_grad():
            sites = self.teacher.sites(batch.images)
        g = self.helper(sites.targets[-1])
        terms = self._helped(
            student.detach(), sites.logits, g, batch.labels, max(done, 0.0) / (self.epochs - self.first)
        )
        if self.epoch < self.first:
            return {"ce": labelled, **terms}
        shown = g.detach() if self.config.censor else torch.zeros_like(g)
        taught = self._taught(student, sites.logits, shown, batch.labels)
        return {"ce": LABELLED * labelled, "kd": taught, **terms}

    def _taught(
        self, student: torch.Tensor, teacher: torch.Tensor, g: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        return DISTILLED * scaffolded_cross_entropy(
            student,
            teacher,
            g,
            labels,
            top_k=self.top_k,
            student_temperature=STUDENT_TEMPERATURE,
            teacher_temperature=TEACHER_TEMPERATURE,
        )

    def _helped(
        self, student: torch.Tensor, teacher: torch.Tensor, g: torch.Tensor, labels: torch.Tensor, done: float
    ) -> dict[str, torch.Tensor]:
        """The helper's terms; ``done``: share of the scaffolded epochs."""
        wrong = student.argmax(dim=1) != labels
        charge = capped_cross_entropy(student, teacher, MOST_CHARGED)
        excess = budget_excess(g, charge, wrong, budget(done, self.config.budget, self.config.last_budget))
        own = F.cross_entropy(student.float(), labels, reduction="none")
        self.helper.note(self.epoch, g.detach(), own, wrong, excess.detach())
        return {
            "helper": self._taught(student, teacher, g, labels),
            "spent": multiplier(done) * excess + DISTILLED * torch.log1p(self.top_k * g).mean(),
        }

    @property
    def report(self) -> dict[str, Any]:
        """Per epoch of the helper: its mean over images, over those that the student got right and wrong, its correlation
        with the student's cross-entropy, and by how much it went over its budget."""
        return {"helper": self.helper.diary()}


class Helper(nn.Module):
    """g(x) in [0, 1] from the teacher's deepest features, pooled after their activation; thrown away after training."""

    sums: torch.Tensor

    def __init__(self, channels: int, epochs: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.path = nn.Sequential(
                nn.Linear(channels, WIDTHS[0]),
                nn.BatchNorm1d(WIDTHS[0]),
                nn.ReLU(),
                nn.Linear(*WIDTHS),
                nn.ReLU(),
                nn.Linear(WIDTHS[1], 1),
            )
        self.register_buffer("sums", torch.zeros(epochs, FIGURES, dtype=torch.float64))

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """Feature [N, C, H, W] or [N, C] -> [N]."""
        pooled = as_map(feature).relu().mean(dim=(2, 3))
        g: torch.Tensor = torch.sigmoid(self.path(pooled).float()).squeeze(1)
        return g

    @torch.no_grad()
    def note(
        self, epoch: int, g: torch.Tensor, charge: torch.Tensor, wrong: torch.Tensor, excess: torch.Tensor
    ) -> None:
        """Add a batch, all [N] and an excess [], to the sums of its epoch; a buffer, so that a continued run keeps them."""
        g, charge, right = g.double(), charge.double(), (~wrong).double()
        sums = [torch.ones_like(g), g, charge, g * g, charge * charge, g * charge, right, g * right]
        self.sums[epoch] += torch.stack([*(part.sum() for part in sums), excess.double() * len(g)])

    def diary(self) -> list[dict[str, float | None]]:
        found = []
        for epoch, row in enumerate(self.sums.tolist()):
            count, g, charge, gg, cc, gc, right, g_right, excess = row
            if not count:
                continue
            spread = math.sqrt(max(gg * count - g * g, 0.0) * max(cc * count - charge * charge, 0.0))
            found.append(
                {
                    "epoch": epoch + 1,
                    "mean": g / count,
                    "right": g_right / right if right else None,
                    "wrong": (g - g_right) / (count - right) if count > right else None,
                    "correlation": (gc * count - g * charge) / spread if spread else None,
                    "over_budget": excess / count,
                }
            )
        return found


def budget(done: float, first: float, last: float) -> float:
    """What the helper may spend after a share ``done`` in [0, 1) of the training: ten half cosines down to ``last``."""
    period, share = divmod(BUDGET_PERIODS * done, 1)
    return _cosine(max(first * BUDGET_FALL**period, last), last, share)


def multiplier(done: float) -> float:
    """λ after a share ``done`` in [0, 1) of the training: four half cosines up."""
    return _cosine(*CHARGE, CHARGE_PERIODS * done % 1)


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))
