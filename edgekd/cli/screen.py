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


def note(text: str) -> None:
    """A remark beside the result, on standard error."""
    print(f"edgekd: {text}", file=sys.stderr)
