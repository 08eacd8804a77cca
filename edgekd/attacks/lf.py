"""LF (Zeng et al. 2021): a smooth additive trigger without high frequencies, relabelled."""

from __future__ import annotations

from .base import Attack


class LowFrequency(Attack):
    """Our own smooth field at the family's defaults; the paper optimises its pattern against a clean network."""

    family = "lowfrequency"
