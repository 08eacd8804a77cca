"""The one home of every rate, interval and percentile; the host imports it from here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from . import checks

# numpy is imported where arrays are counted: records and `edgekd-device info` need the rates alone.


@dataclass(frozen=True)
class Rate:
    """``hits`` out of ``total``; kept as counts so that every interval can be computed again."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """The fraction; NaN when nothing was counted."""
        return self.hits / self.total if self.total else float("nan")

    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the fraction."""
        return wilson(self.hits, self.total)

    def to_json(self) -> dict[str, int]:
        return {"hits": self.hits, "total": self.total}

    @staticmethod
    def from_json(value: Any, at: str = "rate") -> Rate | None:
        """The rate, or None where there is none; raises UsageError, naming ``at``, for counts that cannot be."""
        if value is None:
            return None
        if not checks.rate(value):
            raise checks.wrong(at, value)
        return Rate(value["hits"], value["total"])


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a fraction, as (low, high); (0, 1) when nothing was counted."""
    if total == 0:
        return 0.0, 1.0
    z, share = 1.959964, hits / total
    scale = 1 + z * z / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4.0 * total * total))
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def difference_interval(first: Rate, second: Rate) -> tuple[float, float]:
    """95 % interval of ``first - second``, independent fractions (Newcombe 1998, method 10: from Wilson's limits)."""
    (low_1, high_1), (low_2, high_2) = first.interval(), second.interval()
    if not first.total or not second.total:
        return -1.0, 1.0
    below = math.hypot(first.value - low_1, high_2 - second.value)
    above = math.hypot(high_1 - first.value, second.value - low_2)
    difference = first.value - second.value
    return max(-1.0, difference - below), min(1.0, difference + above)


def accuracy(predictions: Any, labels: Any) -> Rate:
    """ACC: predictions [N] equal to labels [N]."""
    import numpy as np

    predictions, labels = np.asarray(predictions), np.asarray(labels)
    return Rate(int((predictions == labels).sum()), int(labels.size))


def attack_success(predictions: Any, labels: Any, attacker_labels: Any) -> Rate:
    """ASR: triggered images that get the attacker's label, without those whose own label it is already.

    predictions, labels, attacker_labels: [N] integers, of the triggered images.
    """
    import numpy as np

    predictions, labels, attacker_labels = (np.asarray(v) for v in (predictions, labels, attacker_labels))
    counted = labels != attacker_labels
    return Rate(int((predictions == attacker_labels)[counted].sum()), int(counted.sum()))


def robust_accuracy(predictions: Any, labels: Any, attacker_labels: Any) -> Rate:
    """RA (backdoor sense): triggered images that keep their own label, over the same images as ASR."""
    import numpy as np

    predictions, labels, attacker_labels = (np.asarray(v) for v in (predictions, labels, attacker_labels))
    counted = labels != attacker_labels
    return Rate(int((predictions == labels)[counted].sum()), int(counted.sum()))


def defence_effectiveness(acc_before: float, asr_before: float, acc_after: float, asr_after: float) -> float:
    """DER in [0, 1], 0.5 = nothing happened (Zhu et al. 2023); all arguments are fractions."""
    return (max(0.0, asr_before - asr_after) - max(0.0, acc_before - acc_after) + 1) / 2


def percentile(ordered: Any, fraction: float) -> float:
    """Nearest-rank percentile of values sorted upwards, as trtexec and LoadGen count it."""
    count = len(ordered)
    return float(ordered[max(count - 1 - math.floor((1 - fraction) * count + 1e-9), 0)])
