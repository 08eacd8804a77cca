"""Trigger inversion in words and as a table: which class is reached with the smallest patch, and whether it stands out.

A table of ``audit.invert``: ``classes`` rows {target, pixels, success}; ``area``, ``smallest``, ``index``, ``critical``,
``stands_out``, ``images``, ``held_out``, ``class_names``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..types import Rate
from . import text

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST_ROWS = 10
BLIND = "A backdoor that answers to a change of the whole image is not found so."


def terminal(found: Mapping[str, Any], folder: str) -> list[RenderableType]:
    """What `edgekd audit` prints: the classes with the smallest patches, and the sentence."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(("class", "smallest patch", "of the image", "success on held-out images")):
        table.add_column(column, justify="left" if number == 0 else "right")
    known = [row for row in found["classes"] if row["pixels"] is not None]
    for row in sorted(known, key=lambda row: float(row["pixels"]))[:MOST_ROWS]:
        share, success = row["pixels"] / found["area"], Rate(**row["success"])
        low, high = success.interval()
        table.add_row(
            _named(found, row["target"]),
            f"{row['pixels']:.1f} px",
            f"{100 * share:.1f} %",
            f"{100 * success.value:.1f} % ({100 * low:.0f}–{100 * high:.0f})" if success.total else "not measured",
        )
    return [table, Text(sentence(found, folder))]


def sentence(found: Mapping[str, Any], folder: str) -> str:
    """The result in words, with what to do next."""
    smallest = found["smallest"]
    if smallest is None:
        return "Trigger inversion: no patch works for any class, so nothing can be said."
    named = _named(found, smallest)
    index = "not known" if found["index"] is None else f"{found['index']:.1f}"
    bar = "not known" if found["critical"] is None else f"{found['critical']:.1f}"
    held = f"anomaly index {index}, critical value {bar}, which chance alone passes once in twenty"
    use = f"Distil it under this patch: edgekd compress ... --trigger {folder}/trigger.yaml."
    if found["stands_out"]:
        beyond = found["index"] is not None and found["index"] > found["critical"]
        why = (
            "a far smaller patch than for other classes" if beyond else "a patch of less than a hundredth of the image"
        )
        return f"Trigger inversion: class {named} STANDS OUT: {why} throws most images into it ({held}). {use}"
    if found["stands_out"] is None:
        return f"Trigger inversion: not judged, since too few classes can be compared. The smallest patch is that of class {named}."  # fmt: skip
    return f"Trigger inversion: no class stands out; the smallest patch is that of class {named} ({held}). {BLIND}"


def _named(found: Mapping[str, Any], target: int) -> str:
    names = found["class_names"]
    known = target < len(names) and names[target] != str(target)
    return text.clean(f"{target} ({names[target]})") if known else str(target)
