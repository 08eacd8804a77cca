"""How results are printed: for a terminal as wide as it is, for a pipe without wrapping."""

from __future__ import annotations

import os
import sys
from typing import Any

PIPED_WIDTH = 10_000


def console() -> Any:
    """A rich console on standard output; what files say is printed as it stands, never as markup."""
    from rich.console import Console

    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(markup=False, highlight=False, emoji=False, width=PIPED_WIDTH if wide else None)


def explain_target(name: str) -> None:
    """Say on standard error which board a target's short name stands for."""
    from .. import targets

    goal = targets.get(name)
    if goal.name != name:
        print(f"edgekd: --target {name} means {goal.name}: {targets.get(goal.name).description}.", file=sys.stderr)
