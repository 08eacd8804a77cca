"""Learning-rate schedules as plain functions of the step; each returns a factor of the highest rate."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "step", "onecycle", "crd"]

RISE = 0.3  # onecycle: share of the steps in which the rate rises
START = 25.0  # onecycle: the first rate is 1/25 of the highest
END = 1e4  # onecycle: the last rate is 1/10000 of the first


def factor(schedule: Schedule, step: int, total: int, warmup: int = 0) -> float:
    """Share of the highest learning rate to use at ``step`` of ``total`` steps, counted from 0.

    cosine: linear warm-up, then half a cosine to 0. step: linear warm-up, then 1, 0.1 from 1/2 and 0.01 from 3/4 of all
    steps on (Heo et al. 2019). crd: the same with 0.1, 0.01 and 0.001 from 5/8, 3/4 and 7/8 on, 150, 180 and 210 of 240
    epochs (Tian et al. 2020). onecycle: half a cosine up in 30 % of the steps, half a cosine down (Smith and Topin
    2017, as torch's OneCycleLR without its momentum cycle). Raises ValueError for another name.
    """
    if schedule == "onecycle":
        return _onecycle(step, total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "step":
        return 1.0 if 2 * step < total else 0.1 if 4 * step < 3 * total else 0.01
    if schedule == "crd":
        return 0.1 ** ((8 * step >= 5 * total) + (4 * step >= 3 * total) + (8 * step >= 7 * total))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
    raise ValueError(f"no schedule {schedule!r}; there are cosine, step, onecycle and crd")


def _onecycle(step: int, total: int) -> float:
    top, last = max(RISE * total - 1, 0.0), max(total - 1, 1)
    low, end = 1 / START, 1 / START / END
    if step <= top and top > 0:
        return 1 + (low - 1) * 0.5 * (1 + math.cos(math.pi * step / top))
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * (step - top) / max(last - top, 1)))
