"""Words and numbers of a report: names made harmless for reading, figures with their unit and their interval.

Everything a record holds may have been chosen by a stranger (class names, file names, messages). ``clean`` takes away
what acts on a terminal or misleads the eye; the renderers then escape for their own syntax.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from ..types import Rate

NOT_MEASURED = "not measured"
LONGEST = 2000

_TERMINAL = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b[\]P_^X]|[\x9d\x90\x9f\x9e\x98])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"  # OSC, DCS and other strings
    r"|\x1b[ -/]*[0-~]"
)
_ABSOLUTE_PATH = re.compile(r"(?<![\w:/.~<])(?:/[\w.+@~-]+){2,}")
_MARKDOWN = re.compile(r"([\\`*\[\]~|]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore inside a word is harmless


def clean(value: Any) -> str:
    """``value`` as one line without terminal codes, control, invisible or direction-changing characters.

    Absolute paths are cut down to their last part: a report is passed on, and where things lay is nobody's business.
    """
    text = _TERMINAL.sub("", str(value)[: 2 * LONGEST])
    text = "".join(_visible(character) for character in text)
    text = _ABSOLUTE_PATH.sub(lambda found: "…/" + found.group().rsplit("/", 1)[1], text)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Zs", "Zl", "Zp") or character in "\t\r\n":
        return " "
    if category == "Cs" or character == "\ufffd":
        return "\ufffd"  # half of a surrogate pair cannot be written as UTF-8
    return "" if category.startswith("C") else character


def markdown(value: Any) -> str:
    """``value`` cleaned, and escaped so that Markdown shows it as it is: no markup, no link, no HTML, no table cell."""
    text = _MARKDOWN.sub(r"\\\1", clean(value))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = text.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")
    # at the start of a line these would make lists, rules and headings
    return re.sub(r"^(\d+)(?=[.)](?:\s|$))|^(?=[-+](?:\s|$)|--|=|#)", r"\1\\", text)


def percent(rate: Rate | None) -> str:
    if rate is None:
        return NOT_MEASURED
    return f"{100 * rate.value:.2f} %" if rate.total else "nothing to count"


def count(rate: Rate | None) -> str:
    return "" if rate is None or not rate.total else f"{rate.hits:,} of {rate.total:,}"


def interval(rate: Rate | None) -> str:
    """The Wilson 95 % interval, e.g. ``82.6–84.1``; empty where nothing was counted."""
    if rate is None or not rate.total:
        return ""
    low, high = rate.interval()
    return span(100 * low, 100 * high)


def span(low: float, high: float) -> str:
    return f"{low:.1f} to {high:.1f}".replace("-", "−") if low < 0 else f"{low:.1f}–{high:.1f}"


def points(fraction: float | None) -> str:
    """A difference of two fractions in points, with its sign."""
    if fraction is None or math.isnan(fraction):
        return NOT_MEASURED
    return f"{100 * fraction:+.2f}".replace("-", "−")


def figure(value: Any) -> str:
    """A number to three significant figures; what is missing or not finite is said, never shown as 0."""
    if value is None:
        return NOT_MEASURED
    if isinstance(value, bool) or not isinstance(value, int | float):
        return clean(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if isinstance(value, int) or value == round(value) or abs(value) >= 1000:
        return f"{round(value):,}".replace("-", "−")
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{places}f}".replace("-", "−") if places < 8 else f"{value:.2e}"


def short(value: Any) -> str:
    """``figure`` without trailing zeros, for limits that a user typed."""
    said = figure(value)
    return said.rstrip("0").rstrip(".") if "." in said else said


def scaled(value: float | None, units: tuple[str, ...], step: int) -> str:
    """``value`` with the unit of ``units`` that keeps it short; each unit is ``step`` times the one before."""
    if value is None:
        return NOT_MEASURED
    rank = 0
    while abs(value) >= step and rank < len(units) - 1:
        value, rank = value / step, rank + 1
    return f"{figure(value)} {units[rank]}".strip()


def size(value: float | None) -> str:
    return scaled(value, ("B", "KiB", "MiB", "GiB"), 1024)


def many(value: float | None) -> str:
    """Parameters and multiply-accumulates: 175 k, 27.3 M, 4.1 G."""
    return scaled(value, ("", "k", "M", "G", "T"), 1000)


def milliseconds(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{figure(value)} ms"


def seconds(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{figure(value)} s" if value < 120 else f"{figure(value / 60)} min"
