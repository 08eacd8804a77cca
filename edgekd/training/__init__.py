"""The only training loop: epochs, schedules, checkpoints, resume, metrics."""

from edgekd_device.runtime.base import Progress

from .config import Fraction, Settings, TrainConfig, checked, chosen
from .fit import Diverged, fit
from .method import Context, Method

__all__ = [
    "Context",
    "Diverged",
    "Fraction",
    "Method",
    "Progress",
    "Settings",
    "TrainConfig",
    "checked",
    "chosen",
    "fit",
]
