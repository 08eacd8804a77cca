"""The proof that a teacher is, after it was used, what it was before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from ..errors import EdgekdError
from ..models import weights_sha256


@contextlib.contextmanager
def untouched(teacher: nn.Module, what: str) -> Iterator[None]:
    """Raises EdgekdError on the way out if a bit of the teacher, which is in eval mode, or its mode has changed.

    what: who is to blame, as in "method 'kd'".
    """
    before = weights_sha256(teacher.state_dict())
    yield
    if weights_sha256(teacher.state_dict()) != before or any(part.training for part in teacher.modules()):
        raise EdgekdError(f"The {what} changed the teacher, which it must only read, so its result is void.")
