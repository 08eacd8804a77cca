"""Purification: a teacher's weights repaired with few clean images, one file per repair, one row each in the table."""

from .run import check, run
from .table import REPAIRS

__all__ = ["REPAIRS", "check", "run"]
