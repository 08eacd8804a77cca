"""The defences as a picture: what every row leaves of each backdoor, and what it has above training from scratch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from typing import Any, NamedTuple

from benchmarks.robustkd_table import CLEAN, DEVELOPMENT, SHOWN, Record, checked
from edgekd.files import canonical_json, sha256_bytes

REPAIRED = ", kd"  # how rows end that repair the teacher and then run Hinton KD
NAMES = {
    "scratch": "no teacher",
    "kd": "Hinton KD",
    "overhaul": "overhaul KD",
    "kd and overhaul": "both at once",
    "robustkd, features": "RobustKD",
    "robustkd, as compress runs it": "RobustKD by default",
    "robustkd, logits": "RobustKD on outputs",
    "robustkd-plus": "RobustKD+",
}
REPAIRS = {
    "ft": "fine-tuned",
    "ft-sam": "FT-SAM",
    "nad": "NAD",
    "gate": "channel gate",
    "anp": "ANP",
    "clp": "CLP",
    "i-bau": "I-BAU",
}
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#a463f2", "#9c6b4e")
INK, SOFT, LINE = "#1f2328", "#59636e", "#d1d9e0"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "defences",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": INK,
}


class Point(NamedTuple):
    """Of one row on one attack, in the INT8 file: ASR, the mean of all seeds, percent; ACC above scratch, of shared ones, points."""

    row: str
    attack: str
    asr: float
    gain: float
    seeds: int


def points(records: Sequence[Record]) -> list[Point]:
    """Attacks under true labels at the fewest images; rows in the picture's order."""
    few = min((record["config"]["images"] for record in records), default=0)
    found: dict[tuple[str, str], dict[int, Any]] = {}
    for record in records:
        config = record["config"]
        shown = config["images"] == few and "labels" not in config and not checked(config["teacher"])
        if shown and config["teacher"] not in (CLEAN, DEVELOPMENT):
            found.setdefault((config["row"], config["teacher"]), {})[config["seed"]] = record["result"]["int8"]
    rows = [*SHOWN, *(name + REPAIRED for name in REPAIRS)]
    made = []
    for (row, attack), by_seed in found.items():
        scratch = found.get(("scratch", attack), {})
        shared = sorted(by_seed.keys() & scratch.keys())
        if row in rows and shared:
            asr = sum(one["asr"] for one in by_seed.values()) / len(by_seed)
            gain = sum(by_seed[seed]["acc"] - scratch[seed]["acc"] for seed in shared) / len(shared)
            made.append(Point(row, attack, round(asr, 2), round(gain, 2), len(shared)))
    return sorted(made, key=lambda point: (rows.index(point.row), point.attack))


def digest(records: Sequence[Record]) -> str:
    """Of what is drawn; the picture holds it, so that a stale one is found."""
    return sha256_bytes(canonical_json([points(records), NAMES, REPAIRS]).encode())


def svg(records: Sequence[Record]) -> str:
    """The picture; the same records give the same drawing with the same matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure

    drawn = points(records)
    rows = list(dict.fromkeys(point.row for point in drawn))
    attacks = sorted({point.attack for point in drawn})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 0.6 + 0.3 * len(rows)), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, value, label in ((left, "asr", "ASR, %"), (right, "gain", "ACC above training without a teacher, points")):  # fmt: skip
            for attack, colour in zip(attacks, cycle(COLOURS), strict=False):
                mine = [point for point in drawn if point.attack == attack]
                heights = [rows.index(point.row) + _aside(attacks, attack) for point in mine]
                places = [getattr(point, value) for point in mine]
                axes.plot(places, heights, "o", color=colour, markersize=5.5, alpha=0.9, label=attack, clip_on=False)
            axes.set_xlabel(label)
            axes.tick_params(length=0)
            axes.grid(axis="x", color=LINE, linewidth=0.6)
            axes.set_axisbelow(True)
            for side in ("top", "right", "left"):
                axes.spines[side].set_visible(False)
        left.set_yticks(range(len(rows)), [_named(row) for row in rows])
        left.set_ylim(len(rows) - 0.5, -0.6)
        left.set_xlim(-2, 102)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(attacks), frameon=False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": digest(records)})
    return stream.getvalue()


def _named(row: str) -> str:
    return NAMES.get(row) or f"{REPAIRS[row.removesuffix(REPAIRED)]}, then Hinton KD"


def _aside(attacks: Sequence[str], attack: str) -> float:
    """Points of equal figures stand beside each other."""
    return 0.11 * (attacks.index(attack) - (len(attacks) - 1) / 2)
