"""Reports: a run's record as one self-contained HTML file, as Markdown and as a table for the terminal.

Reads records only, never torch; jinja2 and matplotlib are loaded when a page is made.
"""

from __future__ import annotations

from pathlib import Path

from ..files import write_text
from ..types import RunRecord
from .html_page import html
from .markdown_page import markdown
from .terminal import ledger

__all__ = ["html", "ledger", "markdown", "write"]


def write(folder: str | Path, record: RunRecord) -> None:
    """Write report.html and report.md into ``folder``, atomically. Raises EnvironmentFault when that fails."""
    write_text(Path(folder) / "report.html", html(record), "report.html")
    write_text(Path(folder) / "report.md", markdown(record), "report.md")
