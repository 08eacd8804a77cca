"""Where the seconds of a training run go."""

from __future__ import annotations

import time
from collections import defaultdict


class Stopwatch:
    """Seconds per part: each lap counts the time since the lap before. On a CUDA device these are the host's."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now
