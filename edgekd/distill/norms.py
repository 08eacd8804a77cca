"""Passes of a student in training that its batch norms' running statistics do not follow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def still(network: nn.Module) -> Iterator[None]:
    """Batch norms by their running statistics, which stay; afterwards each is in the mode in which it was."""
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
