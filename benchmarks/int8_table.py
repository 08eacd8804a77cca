"""The table of benchmarks/int8.py: a line per network and file, then every bar with its own verdict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.main_job_table import head, line, provenance
from edgekd.report import text

Record = dict[str, Any]
File = dict[str, Any]
MOST_LOST, POINTS, DECIBELS = 0.5, 0.1, 1.0
_S8 = ("onnxruntime s8", "modelopt s8")  # neither makes a file with FP16 between the integers
RIVALS = {"fp16": (), "s8": _S8, "s8-fp16": _S8, "u8s8": ("onnxruntime u8s8",)}
FILES = (
    "network",
    "quantiser",
    "integers",
    "calibrator",
    "ACC %",
    "label flips %",
    "SQNR dB",
    "ours − it, points",
    "dB",
)
BARS = (f"lost ≤ {MOST_LOST:g}", f"points ≥ −{POINTS:g}", f"dB ≥ −{DECIBELS:g}")
JUDGED = (
    *("network", "ours", "ACC %", "label flips %", "SQNR dB", "ACC − FP32, points", BARS[0]),
    *("held against", "ACC − its, points", BARS[1], "SQNR − its, dB", BARS[2]),
)
READING = (
    "Ours with its default calibrator. It may lose half a point to FP32, and a tenth of a point and 1 dB to each of the others, "
    "whose calibrator is the one of the highest SQNR on training images that calibrate nothing. In brackets: 95 % interval "
    "of the paired difference over the test images (Bonett and Price 2012). *Unsure*: the interval lies on both sides "
    "of the bar. Each is one network and one draw of calibration images: no interval says how others would come out."
)


class Gap(NamedTuple):
    """ACC of one file minus another's on the same images, in points, and its 95 % interval."""

    points: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.points:+.2f} [{self.low:+.2f} to {self.high:+.2f}]"

    def against(self, least: float) -> str:
        """met | missed; unsure where the interval holds ``least``."""
        met = self.points >= least
        sure = self.low >= least if met else self.high < least
        return ("met" if met else "**missed**") + ("" if sure else ", unsure")


def paired(one: File, other: File, images: int) -> Gap:
    """``one`` − ``other``; Bonett and Price 2012: Wald's interval, each kind of disagreement counted once more."""
    ours, theirs = int(one["right"], 16), int(other["right"], 16)
    better, worse = (ours & ~theirs).bit_count(), (theirs & ~ours).bit_count()
    more, less = (better + 1) / (images + 2), (worse + 1) / (images + 2)
    half = 1.959964 * math.sqrt((more + less - (more - less) ** 2) / (images + 2))
    return Gap(100 * (better - worse) / images, 100 * (more - less - half), 100 * (more - less + half))


def chosen(files: dict[str, File], maker: str) -> str | None:
    """The maker's file of the highest SQNR on the images of the choice; None where it could make none."""
    made = [name for name in files if name.startswith(maker + " ") and "failed" not in files[name]]
    return max(made, key=lambda name: files[name]["sqnr_choice_db"], default=None)


def tables(records: Sequence[Record]) -> str:
    """Markdown of the records: the bars first, then every file of every network."""
    rows = [row for record in records for row in _judged(record)]
    lines = [*head(JUDGED), *map(line, rows), "", _count(rows), ""]
    lines += [said for record in records for said in _in_hindsight(record)]
    lines += ["", READING, "", *head(FILES), *(line(row) for record in records for row in _files(record))]
    return "\n".join([*lines, "", provenance(records)])


def _judged(record: Record) -> Iterator[list[str]]:
    """A row for every file of ours with the default calibrator and every other quantiser of such integers."""
    result = record["result"]
    files, images = result["files"], result["images"]
    for flavour, makers in RIVALS.items():
        own = files[_ours(flavour, result["default"])]
        lost = paired(own, result["fp32"], images)
        row = [_network(record), flavour, *_figures(own), str(lost), lost.against(-MOST_LOST)]
        for maker in makers:
            name = chosen(files, maker)
            yield [*row, *(_beside(own, name, files[name], images) if name else _unknown(maker))]
        if not makers:
            yield [*row, *["–"] * 5]


def _ours(flavour: str, calibrator: str) -> str:
    return "ours fp16" if flavour == "fp16" else f"ours {flavour} {calibrator}"


def _beside(own: File, name: str, rival: File, images: int) -> list[str]:
    gap, noise = paired(own, rival, images), own["sqnr_db"] - rival["sqnr_db"]
    return [name, str(gap), gap.against(-POINTS), f"{noise:+.1f}", "met" if noise >= -DECIBELS else "**missed**"]


def _unknown(maker: str) -> list[str]:
    return [maker, text.NOT_MEASURED, "**not judged**", text.NOT_MEASURED, "**not judged**"]


def _count(rows: Sequence[list[str]]) -> str:
    """How often each bar is met, and how many verdicts are unsure; one in several rows of a file counts once."""
    places = [JUDGED.index(bar) for bar in BARS]
    parts = []
    for bar, place in zip(BARS, places, strict=True):
        alone = {(*row[:2], row[7] if place > places[0] else ""): row[place] for row in rows if row[place] != "–"}
        found = Counter(alone.values())
        met = sum(count for word, count in found.items() if word.startswith("met"))
        unsure = sum(count for word, count in found.items() if word.endswith("unsure"))
        parts.append(f"{bar}: {met} of {len(alone)}" + (f" ({unsure} unsure)" if unsure else ""))
    return f"Met: {'; '.join(parts)}."


def _in_hindsight(record: Record) -> Iterator[str]:
    """The best of the others' files on the test images themselves, by ACC and by SQNR: stricter, and not judged."""
    result = record["result"]
    files, images = result["files"], result["images"]
    for flavour, makers in RIVALS.items():
        own = files[_ours(flavour, result["default"])]
        others = {n: f for n, f in files.items() for maker in makers if n.startswith(maker + " ") and "failed" not in f}
        if not others:
            continue
        sharp, clear = (max(others, key=lambda name: others[name][key]) for key in ("acc", "sqnr_db"))
        yield (
            f"- {_network(record)}, {flavour}: the best of {len(others)} on the test images themselves, not judged: "
            f"{sharp}, {paired(own, others[sharp], images)} points; "
            f"{clear}, {own['sqnr_db'] - others[clear]['sqnr_db']:+.1f} dB"
        )


def _files(record: Record) -> Iterator[list[str]]:
    """A row per file; beside one of the others', ours with the same integers and the same calibrator."""
    result = record["result"]
    files, network = result["files"], _network(record)
    yield [network, "none", "FP32", "", f"{100 * result['fp32']['acc']:.2f}", "", "", "", ""]
    for name, file in files.items():
        maker, integers, calibrator = (*name.split(" "), "")[:3]
        row = [network, maker, integers, calibrator]
        if "failed" in file:
            reason = file["failed"].strip().splitlines()[-1]
            yield [*row, f"{text.NOT_MEASURED}: {text.markdown(reason)}", *[""] * 4]
            continue
        own = files.get(f"ours {integers} {calibrator}") if maker != "ours" else None
        same = ("", "")
        if own is not None:
            same = str(paired(own, file, result["images"])), f"{own['sqnr_db'] - file['sqnr_db']:+.1f}"
        yield [*row, *_figures(file), *same]


def _figures(file: File) -> list[str]:
    return [f"{100 * file['acc']:.2f}", f"{100 * file['flips']:.2f}", f"{file['sqnr_db']:.1f}"]


def _network(record: Record) -> str:
    config = record["config"]
    trained = f"{config['epochs']} epochs" if "epochs" in config else "a third party's"
    return text.markdown(f"{config['arch']} ({trained})")
