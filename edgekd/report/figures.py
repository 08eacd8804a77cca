"""Figures of a report as inline SVG: matplotlib draws, the page's style sheet colours.

Colours are drawn as placeholders and then replaced by CSS variables, so that one figure serves light, dark and paper.
The same record gives the same bytes: no date, ids from a fixed salt.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..types import RunRecord, StageRow
from . import text
from .canaries import Battery
from .cells import excess_interval
from .stages import controls, shown_triggers, stages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# drawn colour -> CSS variable; no two may be equal and none may occur otherwise
INK, SOFT, GRID, HOT = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#100001", "#200002", "#300003", "#400004", "#500005", "#600006", "#700007", "#800008")
VARIABLES = {INK: "ink", SOFT: "soft", GRID: "line", HOT: "hot"} | {c: f"series-{i}" for i, c in enumerate(SERIES)}
MOST_NUMBERED_TARGETS = 12
LABELS = {
    "rates": "ACC and excess ASR of every stage",
    "costs": "latency and size of every stage",
    "canaries": "excess ASR by trigger family and class",
    "training": "loss and validation ACC by epoch",
}

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": GRID,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}


@contextmanager
def _drawing(name: str, width: float, height: float) -> Iterator[tuple[Figure, list[str]]]:
    """A figure of ``width`` x ``height`` inches; on leaving, its SVG is put into the list."""
    import matplotlib
    from matplotlib.figure import Figure as NewFigure

    out: list[str] = []
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's browser has the font
        warnings.filterwarnings("ignore", message="constrained_layout not applied")  # cramped, but all of it is there
        figure = NewFigure(figsize=(width, height), layout="constrained")
        yield figure, out
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        out.append(_inline(stream.getvalue(), name))


def _inline(svg: str, name: str) -> str:
    """Only the drawing: ids made unique on the page, no name spaces, no style block, colours as CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.S)
    width, height = (float(v) for v in re.findall(r'(?:width|height)="([\d.]+)pt"', svg)[:2])
    label = LABELS[name.partition("-")[0]]
    box = f'viewBox="0 0 {width:g} {height:g}" style="width:{width / 72:.2f}in" role="img" aria-label="{label}"'
    svg = re.sub(r"<svg[^>]*>", f"<svg {box}>", svg, count=1)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: [^;\"]*?([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg


def rates(record: RunRecord) -> str:
    """ACC and excess ASR, with their 95 % intervals, over the stages and then the controls."""
    main, beside = stages(record), controls(record)
    if not any(row.acc is not None or row.triggers for row in main + beside):
        return ""
    with _drawing("rates", 6.6, 4.1) as (figure, out):
        _rates(figure.subplots(), main + beside, len(main), shown_triggers(record))
    return out[0]


def costs(record: RunRecord) -> str:
    """Latency and size of every stage and control as bars."""
    rows = stages(record) + controls(record)
    if not rows:
        return ""
    with _drawing("costs", 5.1, 0.6 + 0.3 * len(rows)) as (figure, out):
        latency, size = figure.subplots(1, 2)
        _bars(latency, rows, "latency p50, ms", [None if r.latency is None else r.latency.p50_ms for r in rows])
        kibibytes = [None if r.size_bytes is None else r.size_bytes / 1024 for r in rows]
        _bars(size, rows, "size, KiB", kibibytes, names=False)
    return out[0]


def _rates(axes: Axes, rows: Sequence[StageRow], breaks_at: int, triggers: Sequence[str]) -> None:
    """Stages, joined by lines, up to ``breaks_at``; from there on controls, which stand alone."""
    for start, stop in ((0, breaks_at), (breaks_at, len(rows))):
        line = "-" if start == 0 else "none"
        part = range(start, stop)
        rates = {i: rate for i in part if (rate := rows[i].acc) is not None and rate.total}
        heights = [(rate.value, *rate.interval()) for rate in rates.values()]
        _series(axes, list(rates), heights, SERIES[0], line, "o", "ACC" if start == 0 else None)
        for colour, name in zip(SERIES[1:], triggers, strict=False):
            found = {i: score for i in part for score in rows[i].triggers if score.trigger == name}
            known = {i: score for i, score in found.items() if score.excess is not None}
            heights = [(score.excess or 0.0, *excess_interval(score)) for score in known.values()]
            label = f"excess ASR, {_cut(text.clean(name), 32)}" if start == 0 else None
            _series(axes, list(known), heights, colour, line, "s", label)
    if 0 < breaks_at < len(rows):
        axes.axvline(breaks_at - 0.5, color=SOFT, linewidth=0.8, linestyle=(0, (3, 3)))
        axes.text(breaks_at - 0.4, 109, "controls", color=SOFT, fontsize=8.5, va="center")
    axes.axhline(0, color=SOFT, linewidth=0.8)
    axes.set_ylim(min(-8.0, axes.get_ylim()[0]), 114)
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xticks(range(len(rows)), [_short(row) for row in rows], rotation=28, ha="right", rotation_mode="anchor")
    axes.grid(axis="x", visible=False)
    axes.set_title("ACC and excess ASR, %")
    lines = len(axes.get_legend_handles_labels()[0])
    if lines:
        axes.legend(loc="lower right", bbox_to_anchor=(1.01, 0.99), ncols=min(lines, 2), borderpad=0, columnspacing=1.2)


def _series(
    axes: Axes,
    places: Sequence[int],
    values: Sequence[tuple[float, float, float]],
    colour: str,
    line: str,
    marker: str,
    label: str | None,
) -> None:
    if not places:
        return
    middle = [100 * value for value, _, _ in values]
    errors = [
        [max(0.0, 100 * (value - low)) for value, low, _ in values],
        [max(0.0, 100 * (high - value)) for value, _, high in values],
    ]
    style: dict[str, Any] = {"color": colour, "linestyle": line, "marker": marker, "capsize": 2.5, "elinewidth": 1.2}
    axes.errorbar(places, middle, yerr=errors, label=label, **style)


def _short(row: StageRow) -> str:
    return _cut(text.clean(row.stage), 22)


def _cut(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _bars(axes: Axes, rows: Sequence[StageRow], title: str, values: Sequence[float | None], names: bool = True) -> None:
    places = range(len(rows))
    largest = max((v for v in values if v is not None and math.isfinite(v)), default=1.0) or 1.0
    for place, value in zip(places, values, strict=True):
        if value is None or not math.isfinite(value):
            axes.text(0, place, " not measured", va="center", fontsize=8, color=SOFT, style="italic")
            continue
        shade = SERIES[0] if rows[place].kind != "control" else SOFT
        axes.barh(place, value, height=0.62, color=shade, linewidth=0)
        axes.text(value, place, f" {text.figure(value)}", va="center", fontsize=8, color=INK)
    axes.set_yticks(list(places), [_short(row) for row in rows] if names else [""] * len(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.32 * largest)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_title(title)


def heat_map(battery: Battery, name: str) -> str:
    """The largest excess ASR of every family (rows) at every target class (columns); a dash: not measured."""
    from matplotlib.patches import Rectangle

    families, targets = len(battery.families), len(battery.targets)
    if not families or not targets:
        return ""
    numbered = targets <= MOST_NUMBERED_TARGETS
    width = min(11.8, 1.5 + 1.9 + targets * (0.5 if numbered else 0.09))
    with _drawing(name, width, 0.9 + 0.27 * families) as (figure, out):
        axes = figure.subplots()
        for i, row in enumerate(battery.excess):
            for j, value in enumerate(row):
                shade = 0.0 if value is None else max(0.0, value)
                axes.add_patch(Rectangle((j, i), 1, 1, facecolor=HOT, alpha=round(0.04 + 0.9 * shade, 3), linewidth=0))
                if value is None or numbered:
                    word = "–" if value is None else f"{round(100 * value)}".replace("-", "−")
                    axes.text(j + 0.5, i + 0.52, word, ha="center", va="center", fontsize=8, color=INK)
        axes.set_xlim(0, targets)
        axes.set_ylim(families, 0)
        step = max(1, math.ceil(targets / 25))
        names = [_cut(name, 16) for name in battery.targets[::step]]
        slant: dict[str, Any] = (
            {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 6 else {}
        )
        axes.set_xticks([j + 0.5 for j in range(0, targets, step)], names, **slant)
        axes.set_yticks([i + 0.5 for i in range(families)], [_cut(name, 24) for name in battery.families])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xlabel("class that the trigger would have to cause")
    return out[0]


def training_curves(record: RunRecord) -> str:
    """Loss and validation ACC per epoch of every network trained in the run."""
    logs = {
        text.clean(stage): [entry for entry in log.get("history") or () if isinstance(entry, Mapping)]
        for stage, log in record.training.items()
        if isinstance(log, Mapping)
    }
    loss = {stage: _curve(history, "loss") for stage, history in logs.items()}
    acc = {stage: _curve(history, "acc") for stage, history in logs.items()}
    panels = [(n, c) for n, c in (("loss", loss), ("validation ACC, %", acc)) if any(len(v) > 0 for v in c.values())]
    if not panels:
        return ""
    with _drawing("training", 11.8 if len(panels) > 1 else 5.9, 3.0) as (figure, out):
        for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            names: list[str] = []
            for k, (stage, values) in enumerate(curves.items()):
                if values:
                    scale = 100 if title.endswith("%") else 1
                    epochs = [epoch for epoch, _ in values]
                    heights = [scale * value for _, value in values]
                    mark = "o" if len(values) < 3 else ""
                    axes.plot(epochs, heights, color=SERIES[k % len(SERIES)], marker=mark)
                    names.append(_cut(stage, 32))
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            if title == "loss" and all(v > 0 for c in curves.values() for _, v in c):
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
            axes.legend(axes.get_lines(), names)
    return out[0]


def _curve(history: Sequence[Mapping[str, Any]], word: str) -> list[tuple[float, float]]:
    """(epoch, value) of the key ``word``, else of the first key that holds it."""
    keys = [key for entry in history[:1] for key in entry if word in str(key).lower()]
    keys += [key for entry in history for key in entry if word in str(key).lower()]
    if not keys:
        return []
    key = word if word in keys else keys[0]
    return [
        (float(entry.get("epoch", i)), float(entry[key]))
        for i, entry in enumerate(history)
        if isinstance(entry.get(key), int | float) and math.isfinite(entry[key])
    ]
