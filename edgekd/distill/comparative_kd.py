"""Comparative KD (Wilf et al. 2023): copies differences between images instead of outputs; asks the teacher once per image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from ..files import canonical_json, sha256_bytes, write_npz
from ..losses import comparison_mse, every_pair_mse, soft_target_kl
from ..training import Context, Settings
from .base import Distiller, Needs, cross_entropy

if TYPE_CHECKING:
    from ..data import Batch


class ComparativeKDSettings(Settings):
    relation_weight: float = Field(1.0, ge=0, description="weight of matching the teacher's differences")
    label_weight: float = Field(1.0, ge=0, description="weight of the labels")
    label_loss: Literal["cross-entropy", "differences"] = Field(
        "cross-entropy",
        description="differences: those of one-hot labels, the published form; nothing then says which class an image is",
    )
    kd_weight: float = Field(0.0, ge=0, description="weight of Hinton KD on the outputs that the teacher gave once")
    temperature: float = Field(4.0, gt=0, description="temperature of that Hinton KD")
    group: Literal[2, 3] = Field(
        2, description="images per comparison: one minus another, or the mean of two minus a third"
    )
    compare: Literal["groups", "batch"] = Field(
        "groups",
        description="groups drawn at random; batch, a control: all pairs at once, which amounts to matching outputs up "
        "to one vector",
    )


class ComparativeKD(Distiller):
    """label_weight · CE + relation_weight · MSE(d_S, d_T) + kd_weight · T² · KL(teacher ‖ student), d_i = z_i - z_j, j another image of the batch.

    For few or metered teacher calls: each training image is shown to it once, as it is, before the first step, and never
    again, whatever the epochs, the augmentation and the kills in between; the student sees augmented images all the while.
    To ask less, train on fewer images: N images are N calls (its audits and its accuracy are asked for elsewhere).

    The published label term, MSE(d_S, d_Y), is a setting and not the default: differences leave one vector for all images free, no gradient
    ever reaches the last layer's bias, and where that vector ends the classes are decided by chance. Cross-entropy, which
    the method card allows, fixes it. Differences of logits (about 10) and of labels (1) also contradict each other.
    The paper's matching of inner features is left out, and so are stopping early and its search of rates.
    """

    Config: ClassVar[type[Settings]] = ComparativeKDSettings
    needs: ClassVar[Needs] = "logits"
    every_image = True

    said: torch.Tensor  # [N, K] by index, as the teacher said it

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        self.said = self._asked_once(context).to(context.device)

    def _asked_once(self, context: Context) -> torch.Tensor:
        """Kept in the run's folder, so that a continued run does not ask again."""
        if context.folder is None:
            return self._ask(context)
        of = {key: context.identity.get(key) for key in ("teacher", "images")}
        kept = context.folder / f"teacher-{sha256_bytes(canonical_json(of).encode())[:16]}.npz"
        if not kept.exists():
            write_npz(kept, "teacher", logits=self._ask(context).cpu().numpy())
        return _read(kept)

    @torch.no_grad()
    def _ask(self, context: Context) -> torch.Tensor:
        return torch.cat([self.teacher(batch.images).float() for batch in context.batches.once()])

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        config, student, said = self.config, self.student(batch.images), self.said[batch.index]
        partners = drawn_partners(len(student), config.group).to(student.device)
        if config.label_loss == "differences":
            terms = {"labels": comparison_mse(student, F.one_hot(batch.labels, student.shape[1]), partners)}
        else:
            terms = {"ce": cross_entropy(student, batch.labels)}
        terms = {name: config.label_weight * term for name, term in terms.items()}
        every = config.compare == "batch"
        relation = every_pair_mse(student, said) if every else comparison_mse(student, said, partners)
        terms["relation"] = config.relation_weight * relation
        if config.kd_weight:
            terms["kd"] = config.kd_weight * soft_target_kl(student, said, config.temperature)
        return terms

    @property
    def report(self) -> dict[str, Any]:
        """teacher_calls: how often the teacher was asked, however often the run was killed."""
        return {"teacher_calls": len(self.said)}


def drawn_partners(size: int, group: int) -> torch.Tensor:
    """Partners for every image of a batch, by random shifts: int64 [group - 1, size], never the image itself."""
    shifts = 1 + torch.randperm(size - 1)[: group - 1]
    return (torch.arange(size) + shifts[:, None]) % size


def _read(path: Path) -> torch.Tensor:
    with np.load(path, allow_pickle=False) as kept:
        return torch.from_numpy(kept["logits"])
