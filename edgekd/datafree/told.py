"""A teacher that is not asked twice: the answer to a batch may be known before a method asks for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Told(nn.Module):
    """Logits of the very tensor that was announced last come from memory; everything else is the teacher's own.

    Features, other images and copies that want gradients go through the network as ever.
    """

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher
        self._images: torch.Tensor | None = None
        self._logits: torch.Tensor | None = None

    def tell(self, images: torch.Tensor, logits: torch.Tensor) -> None:
        """The teacher's logits [N, K] of images [N, C, H, W], until the next are told."""
        self._images, self._logits = images, logits.detach()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images is self._images and self._logits is not None and not images.requires_grad:
            return self._logits
        logits: torch.Tensor = self.teacher(images)
        return logits

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("teacher"), name)
