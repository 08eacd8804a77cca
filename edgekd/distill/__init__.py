"""Distillation: one file per method, one row per method in the table, one function that runs them."""

from .abd import AbdSettings, distill_defended
from .run import check, run
from .table import METHODS

__all__ = ["METHODS", "AbdSettings", "check", "distill_defended", "run"]
