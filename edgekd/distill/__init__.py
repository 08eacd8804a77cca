"""Distillation: one file per method, one row per method in the table, one function that runs them."""

from .run import check, run
from .table import METHODS

__all__ = ["METHODS", "check", "run"]
