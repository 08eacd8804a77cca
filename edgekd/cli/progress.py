"""Progress bars with the time left; quiet when nobody watches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping

Report = Callable[[str, int, int, Mapping[str, float]], None]


@contextlib.contextmanager
def progress(quiet: bool = False) -> Iterator[Report | None]:
    """A callable (what, done, total, figures) that draws one bar per piece of work; None when not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    # here, because `edgekd --help` must not wait for it
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, object] = {}

        def report(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
            text = " ".join(f"{key} {value:.3g}" for key, value in figures.items())
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, figures=text)
            bars.update(tasks[what], completed=done, total=total, figures=text)  # type: ignore[arg-type]

        yield report
