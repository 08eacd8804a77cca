"""The stage ledger as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..types import RunRecord
from . import stages
from .cells import Cell

if TYPE_CHECKING:
    from rich.table import Table

STYLES = {"good": "green", "bad": "bold red", "warn": "yellow", "quiet": "dim italic", "": ""}
LEFT_OUT = ("untriggered",)  # in the report; a terminal has 100 columns


def ledger(record: RunRecord) -> Table:
    """The ledger and its controls as a rich table: figures without their small print."""
    from rich.table import Table
    from rich.text import Text

    made = stages.ledger(record)
    shown = [i for i, name in enumerate(made.columns) if name not in LEFT_OUT]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for i in shown:
        name = made.columns[i]
        table.add_column(name, justify="left" if name in ("stage", "trigger") else "right", no_wrap=name != "stage")

    def words(cell: Cell) -> Text:
        return Text(cell.text.removeprefix("p50 "), STYLES[cell.tone])

    for number, row in enumerate(made.rows):
        if row.control and (number == 0 or not made.rows[number - 1].control):
            table.add_section()
            table.add_row(Text("controls", "dim"))
        for k, trigger in enumerate(row.triggers):
            head = row.head if k == 0 else tuple(Cell("") for _ in row.head)
            tail = row.tail if k == 0 else tuple(Cell("") for _ in row.tail)
            cells = head + trigger + tail
            table.add_row(*(words(cells[i]) for i in shown))
    return table
