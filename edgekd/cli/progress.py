"""Progress bars with the time left; quiet when nobody watches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..training import Progress

SHOWN = ("epoch", "loss", "acc", "p50_ms")  # of the figures that come along, what a line has room for
BRIEF_SECONDS = 2.0  # work that took no longer leaves no line behind


@contextlib.contextmanager
def progress(quiet: bool = False) -> Iterator[Progress | None]:
    """A callable (what, done, total, figures) that draws one bar per piece of work; None when not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    with _bars() as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
            text = " ".join(f"{key.removesuffix('_ms')} {figures[key]:.3g}" for key in SHOWN if key in figures)
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, figures=text)
            bars.update(tasks[what], completed=done, total=total, figures=text)
            elapsed = next((task.elapsed for task in bars.tasks if task.id == tasks[what]), None)
            if done >= total and (elapsed or 0.0) < BRIEF_SECONDS:
                bars.remove_task(tasks.pop(what))

        yield report


def _bars() -> Any:
    """The columns fit a terminal of 80."""
    # here, because `edgekd --help` must not wait for it
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    def narrow(width: int) -> Column:
        return Column(width=width, no_wrap=True)

    return Progress(
        TextColumn("{task.description}", markup=False, table_column=narrow(22)),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
        MofNCompleteColumn(table_column=Column(min_width=9, no_wrap=True, justify="right")),
        TimeRemainingColumn(elapsed_when_finished=True, compact=True, table_column=narrow(7)),
        TextColumn("{task.fields[figures]}", markup=False, table_column=narrow(20)),
        console=Console(stderr=True),
        expand=True,
    )
