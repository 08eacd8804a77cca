"""How a teacher becomes backdoored: one file per attack, so that defences are judged on what attackers do."""

from .base import Attack, AttackSettings, Goal, Poisoned
from .run import Attacked, check, run
from .table import ATTACKS, SABOTAGE

__all__ = ["ATTACKS", "SABOTAGE", "Attack", "AttackSettings", "Attacked", "Goal", "Poisoned", "check", "run"]
