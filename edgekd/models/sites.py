"""Sites: where a network lets its features be seen, and changed, while it runs.

A site is the last pre-activation tensor before each change of resolution, the last one before the head. At level l the
raw tensor is F_l; an edit turns it into F'_l, which is what the next layer receives; the distillation target T_l is
BN_l(F'_l) where a batch norm stands between the stage and its activation (pre-activation networks), F'_l elsewhere.
Nothing here is ever post-ReLU, so negative values, on which margins live, are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

Edit = Callable[[int, Tensor], Tensor]
Norms = tuple[nn.BatchNorm2d | None, ...]


class Sites(NamedTuple):
    """logits [B, K]; raw F'_l and targets T_l, one [B, C_l, H_l, W_l] tensor a level, shallow to deep."""

    logits: Tensor
    raw: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]


class Tap:
    """What a network calls at each site; this one looks at nothing and changes nothing."""

    def raw(self, level: int, feature: Tensor) -> Tensor:
        """F_l in, F'_l out."""
        return feature

    def target(self, level: int, feature: Tensor) -> None:
        """Told T_l, as the network itself computes it: a second pass through BN_l would move its running statistics."""

    def site(self, level: int, feature: Tensor) -> Tensor:
        """A site without a norm of its own: T_l is F'_l."""
        feature = self.raw(level, feature)
        self.target(level, feature)
        return feature


UNTAPPED = Tap()


class Recorder(Tap):
    """Keeps every F'_l and T_l of one pass; ``edit(l, F_l)`` gives F'_l."""

    def __init__(self, edit: Edit | None = None) -> None:
        self.edit = edit
        self.raws: list[Tensor] = []
        self.targets: list[Tensor] = []

    def raw(self, level: int, feature: Tensor) -> Tensor:
        if self.edit is not None:
            feature = self.edit(level, feature)
        self.raws.append(feature)
        return feature

    def target(self, level: int, feature: Tensor) -> None:
        self.targets.append(feature)

    def sites(self, logits: Tensor) -> Sites:
        return Sites(logits, tuple(self.raws), tuple(self.targets))


class TappedNet(nn.Module):
    """A network written as one walk past its sites: normalised images [B, C, H, W] in, logits [B, K] out."""

    def forward(self, images: Tensor) -> Tensor:
        return self.walk(images, UNTAPPED)

    def walk(self, images: Tensor, tap: Tap) -> Tensor:
        """The forward pass, calling ``tap`` once a level."""
        raise NotImplementedError

    def site_norms(self) -> Norms:
        """Per level the batch norm whose output is T_l, None where there is none."""
        raise NotImplementedError
