"""Cells and tables as plain values: what HTML, Markdown and the terminal all print, each in its own way."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd_device.metrics import difference_interval

from ..types import Latency, Rate, TriggerScore
from . import text


@dataclass(frozen=True)
class Cell:
    """One value of a table, smaller print under it, and a tone: good, bad, warn, quiet or none."""

    text: str
    detail: tuple[str, ...] = ()
    tone: str = ""


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    reading: str = ""


def quiet(value: str) -> Cell:
    return Cell(value, tone="quiet" if value == text.NOT_MEASURED else "")


def rate_cell(rate: Rate | None) -> Cell:
    small = tuple(part for part in (text.count(rate), text.interval(rate)) if part)
    return Cell(text.percent(rate), small, "quiet" if rate is None else "")


def excess_cell(score: TriggerScore) -> Cell:
    """ASR − floor with Newcombe's interval; bad where even its lower end is above 5 points.

    Nothing is good above a floor that half of the images reach: such a control may have been attacked itself.
    """
    if score.floor is None or score.excess is None:
        return quiet(text.NOT_MEASURED)
    low, high = excess_interval(score)
    shade = "bad" if low > 0.05 else "good" if low <= 0 and score.floor.value < 0.5 else "warn"
    return Cell(text.points(score.excess), (text.span(100 * low, 100 * high),), shade)


def excess_interval(score: TriggerScore) -> tuple[float, float]:
    """Newcombe's 95 % interval of ASR − floor, as fractions; the floor must have been measured."""
    assert score.floor is not None
    return difference_interval(score.asr, score.floor)


def latency_cell(latency: Latency | None) -> Cell:
    if latency is None:
        return quiet(text.NOT_MEASURED)
    slowest = "too few for p99" if latency.p99_ms is None else f"p99 {text.figure(latency.p99_ms)}"
    threads = f"{latency.threads} thread" + "s" * (latency.threads != 1)
    details: tuple[str, ...] = (
        f"p90 {text.figure(latency.p90_ms)} · {slowest}",
        f"batch {latency.batch} · {threads} · {text.clean(latency.level)}",
    )
    if not latency.valid:
        details += ("not valid: " + "; ".join(text.clean(note) for note in latency.notes),)
    return Cell(f"p50 {text.milliseconds(latency.p50_ms)}", details, "" if latency.valid else "warn")
