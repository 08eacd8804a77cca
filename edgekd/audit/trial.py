"""The images that a network is attacked on: the same ones for every network, in batches, with seeds by name."""

from __future__ import annotations

import numpy as np
import torch

from edgekd.audit.tiers import TIERS, Attack
from edgekd.data import ImageSet, balanced_order
from edgekd.errors import UsageError, did_you_mean
from edgekd.files import sha256_bytes
from edgekd.perturb import Predict
from edgekd.runners.torch import images_at_once
from edgekd.training import Progress
from edgekd.types import Rate

FEW = 100  # images of the tests beside the attacks
SEVERAL = 250  # images of the curve over smaller bounds


class Trial:
    """Up to ``count`` images (default: the tier's), every class in proportion, and how they are attacked.

    Raises UsageError for an unknown tier, a bound outside (0, 1], or no images.
    """

    def __init__(
        self,
        images: ImageSet,
        tier: str,
        bound: float,
        *,
        name: str = "model",
        seed: int = 0,
        count: int | None = None,
        device: str | torch.device = "cpu",
        progress: Progress | None = None,
    ) -> None:
        if tier not in TIERS:
            raise UsageError(f"There is no tier {tier!r}.{did_you_mean(tier, TIERS)} The tiers are {', '.join(TIERS)}.")
        if not 0 < bound <= 1:
            raise UsageError(
                f"A bound of {bound:g} is not in (0, 1]: pixels run from 0 to 1, so eight levels are 8/255."
            )
        self.tier, self.bound, self.name, self.seed = tier, bound, name, seed
        order = balanced_order(images.labels, seed)[: count or TIERS[tier].images]
        if not len(order):
            raise UsageError("There is no image to attack.")
        self.chosen = images.subset(np.sort(order))
        self.few, self.several = (
            torch.from_numpy(np.searchsorted(np.sort(order), np.sort(order[:most]))) for most in (FEW, SEVERAL)
        )
        self.pixels = torch.from_numpy(np.ascontiguousarray(self.chosen.images)).float().div_(255)
        self.labels = torch.from_numpy(self.chosen.labels)
        self.device, self.progress = device, progress
        self.at_once = max(4, images_at_once(images.shape) // 4)

    def __len__(self) -> int:
        return len(self.labels)

    def about(self) -> dict[str, object]:
        """What a figure needs beside it; plain JSON."""
        found = {"name": self.name, "tier": self.tier, "norm": "linf", "bound": self.bound}
        return {**found, "images": len(self), "images_sha256": self.chosen.sha256, "seed": self.seed}

    def generator(self, *words: object) -> torch.Generator:
        digest = sha256_bytes(repr(("edgekd.audit.trial", self.seed, *words)).encode())
        return torch.Generator().manual_seed(int(digest[:15], 16))

    def placed(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(self.device, memory_format=torch.channels_last)

    def logits(self, predict: Predict, images: torch.Tensor) -> torch.Tensor:
        """[N, K] float32 on the CPU, of images float [N, C, H, W] in [0, 1]."""
        with torch.no_grad():
            return torch.cat([predict(self.placed(part)).float().cpu() for part in images.split(self.at_once)])

    def attacked(
        self, predict: Predict, attack: Attack, index: torch.Tensor, bound: float | torch.Tensor | None = None
    ) -> torch.Tensor:
        """The images at ``index`` [M] under an attack, [M, C, H, W]; bound: another one, or one per image [M]."""
        found, done = [self.pixels[:0]], 0
        sizes = torch.as_tensor(self.bound if bound is None else bound).expand(len(index)).split(self.at_once)
        for part, size in zip(index.split(self.at_once), sizes, strict=True):
            self.tell(attack.name, done, len(index))
            x, y = self.placed(self.pixels[part]), self.labels[part].to(self.device)
            limit = size.to(x)[:, None, None, None]
            found.append(attack.run(predict, x, y, limit, self.generator(attack.name, done)).cpu().contiguous())
            done += len(part)
        self.tell(attack.name, max(done, 1), max(done, 1))
        return torch.cat(found)

    def tell(self, what: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(f"{self.name}: {what}", done, total, {})

    def withstood(self, predict: Predict, found: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Which of the images ``found`` [M], made of those at ``index``, keep their label: bool [M]."""
        if not len(index):
            return torch.zeros(0, dtype=torch.bool)
        return self.logits(predict, found).argmax(1) == self.labels[index]

    def left(
        self, predict: Predict, attack: Attack, index: torch.Tensor, bound: float | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Which of the images at ``index`` keep their label under the attack: bool [M]."""
        return self.withstood(predict, self.attacked(predict, attack, index, bound), index)

    def rate(self, flags: torch.Tensor) -> dict[str, int]:
        """Flags of some of the images as a share of all."""
        return Rate(int(flags.sum()), len(self)).to_json()
