"""The stage ledger as a table for the terminal: as many columns as it has room for, none of them cut short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..types import RunRecord
from . import stages, text
from .cells import Cell

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table
    from rich.text import Text

STYLES = {"good": "green", "bad": "bold red", "warn": "yellow", "quiet": "dim italic", "": ""}
# What goes first where a terminal is narrow; the report has it all. "untriggered" has no room on any.
NEVER, FIRST_TO_GO = "untriggered", ("floor", "RA", "label flips", "size")
SHORT = {text.NOT_MEASURED: "n/m"}


@dataclass(frozen=True)
class Ledger:
    """The ledger and its controls; figures without their small print."""

    made: stages.Ledger

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.measure import Measurement
        from rich.text import Text

        for dropped in range(-1, len(FIRST_TO_GO) + 1):
            narrow = dropped >= 0
            shown = self._shown((NEVER, *FIRST_TO_GO[: max(dropped, 0)]), narrow)
            table = self._table(shown, narrow)
            if Measurement.get(console, options.update_width(10_000), table).maximum <= options.max_width:
                break
        yield table
        if narrow:
            gone = [name for name in (*FIRST_TO_GO, NEVER) if name in self.made.columns and name not in shown]
            yield Text(f"n/m: not measured. The report also has: {', '.join(gone)}, intervals.", "dim")

    def _shown(self, dropped: Sequence[str], narrow: bool) -> list[str]:
        """A narrow table has the names of triggers below those of stages."""
        return [name for name in self.made.columns if name not in dropped and not (narrow and name == "trigger")]

    def _table(self, shown: Sequence[str], narrow: bool) -> Table:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="dim", collapse_padding=narrow)
        for name in shown:
            left = name in ("stage", "trigger")
            table.add_column("flips" if narrow and name == "label flips" else name, justify="left" if left else "right")
            table.columns[-1].no_wrap = True
        for number, row in enumerate(self.made.rows):
            if row.control and (number == 0 or not self.made.rows[number - 1].control):
                table.add_section()
                table.add_row(_words(Cell("controls", tone="quiet"), narrow))
            for line in _stacked(row, self.made) if narrow else _spread(row, self.made):
                table.add_row(*(_words(line.get(name, Cell("")), narrow) for name in shown))
        return table


def ledger(record: RunRecord) -> Ledger:
    """The ledger of a run, for a rich console of any width."""
    return Ledger(stages.ledger(record))


def _spread(row: stages.LedgerRow, made: stages.Ledger) -> list[dict[str, Cell]]:
    """One line per trigger, the stage's own figures in the first."""
    lines = [dict(zip(made.triggers, trigger, strict=True)) for trigger in row.triggers]
    own = dict(zip((*made.head, *made.tail), (*row.head, *row.tail), strict=True))
    return [{**own, **lines[0]}, *lines[1:]]


def _stacked(row: stages.LedgerRow, made: stages.Ledger) -> list[dict[str, Cell]]:
    """The same with the trigger's name below the stage's, where there are several."""
    lines = _spread(row, made)
    if "trigger" not in made.triggers:
        return lines
    own = {name: cell for name, cell in lines[0].items() if name not in made.triggers}
    named = [{name: line[name] for name in made.triggers} for line in lines]
    return [own, *({**line, "stage": Cell("  " + line["trigger"].text)} for line in named)]


def _words(cell: Cell, narrow: bool) -> Text:
    from rich.text import Text

    words = cell.text.removeprefix("p50 ")
    return Text(SHORT.get(words, words) if narrow else words, STYLES[cell.tone])
