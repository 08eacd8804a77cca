"""How results are printed: for a terminal as wide as it is, for a pipe without wrapping."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PIPED_WIDTH = 10_000


def console() -> Any:
    """A rich console on standard output; what files say is printed as it stands, never as markup."""
    from rich.console import Console

    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(markup=False, highlight=False, emoji=False, width=PIPED_WIDTH if wide else None)


def print_json(value: Any) -> None:
    """One line of JSON in ASCII alone: what files say may hold characters that steer a terminal."""
    print(json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":")))


def print_gates(out: Any, gates: Iterable[Mapping[str, Any]]) -> None:
    """One line for each gate; a board may have worded why it failed."""
    from rich.text import Text

    from ..report.text import clean

    for gate in gates:
        why = f", {clean(gate['why'])}" if gate["why"] else ""
        mark = Text(f"passed{why}", "green") if gate["passed"] else Text(f"FAILED{why}", "red")
        what = f"gate: {clean(gate['name'])} ≤ {gate['limit']:g} {clean(gate['unit'])}: "
        out.print(Text(what).append(mark))


def package_sha256(bundle: Path, manifest_sha256: str) -> str:
    """SHA-256 of the device package of the bundle with that manifest; empty where no such bundle lies there, whole.

    What checks a bundle must not come with it unseen: by this hash a board knows the package before it runs it.
    """
    from edgekd_device import bundle as reader

    from ..errors import EdgekdError

    try:
        entries = reader.read(bundle, manifest_sha256).manifest.files
    except EdgekdError:
        return ""
    return next(entry.sha256 for entry in entries if entry.name == reader.PACKAGE)


def forewarn(sentences: Iterable[str]) -> None:
    """Say on standard error what a run will end with, before it takes its time."""
    for sentence in sentences:
        print(f"edgekd: {sentence}", file=sys.stderr)


def explain_target(name: str) -> None:
    """Say on standard error which board a target's short name stands for."""
    from .. import targets

    goal = targets.get(name)
    if goal.name != name:
        print(f"edgekd: --target {name} means {goal.name}: {targets.get(goal.name).description}.", file=sys.stderr)
