"""The transfer test as a table: a teacher and a scenario per row, ASR and excess over scratch for every kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, mean, provenance, spread
from edgekd.report.transferability import transferable, verdict

Record = dict[str, Any]
COPIED = {
    "first layers": "the teacher’s stem and first group copied",
    "frozen first layers": "the teacher’s stem and first two groups copied and frozen",
    "frozen body": "all but the teacher’s last layer copied and frozen",
}
KINDS = {"kd": "Hinton KD", "overhaul": "overhaul KD", "at": "attention transfer"}


def tables(records: Sequence[Record]) -> str:
    """Rows by teacher and scenario; a kind that was not run is "–"."""
    found: dict[tuple[Any, ...], dict[str, list[Record]]] = {}
    for record in records:
        found.setdefault(_row(record["config"]), {}).setdefault(record["config"]["kind"], []).append(record)
    floors: dict[tuple[Any, ...], dict[int, Record]] = {}  # one record a seed, whichever row asked for it
    for record in records:
        if record["config"]["kind"] == "scratch":
            floors.setdefault(_floor_key(_row(record["config"])), {})[record["config"]["seed"]] = record
    lines = head(
        ["teacher", "teacher ACC / ASR %", "transfer images", "scratch ACC / ASR / RA %"]
        + [f"{name}: ACC / ASR / RA %, excess" for name in KINDS.values()]
        + ["verdict"]
    )
    for key in sorted(found, key=str):
        kinds = found[key]
        if not kinds.keys() & KINDS.keys():  # scratch alone, which other rows have asked for
            continue
        floor = list(floors.get(_floor_key(key), {}).values())
        any_record = next(iter(kinds.values()))[0]["result"]
        cells = [_cell(kinds.get(kind, []), floor) for kind in KINDS]
        lines.append(
            line(
                [
                    key[0].removesuffix(".pth").removesuffix(".tar"),
                    f"{any_record['teacher_acc']:.1f} / {any_record['teacher_asr']:.1f}",
                    _scenario(key),
                    _pair(floor) if floor else "–",
                    *(cell for cell, _ in cells),
                    "; ".join(f"{name}: {how}" for name, (_, how) in zip(KINDS.values(), cells, strict=True) if how),
                ]
            )
        )
    return "\n".join([*lines, "", provenance(records)])


def _row(config: Record) -> tuple[Any, ...]:
    keys = ("teacher", "rate", "labels", "start", "student", "images", "epochs")
    return *(config[key] for key in keys), bool(config.get("unseen"))


def _floor_key(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Scratch knows no teacher's labels and no teacher's layers, but the same images and the same student."""
    teacher, rate, _, _, *rest = key
    return teacher, rate, *rest


def _scenario(key: tuple[Any, ...]) -> str:
    _, rate, labels, start, student, images, _, unseen = key
    carried = f"{100 * rate:g} % triggered" if rate else "clean"
    copied = "" if start == "fresh" else f", {COPIED[start]}"
    unused = " that the attack did not train on" if unseen else ""
    said = "true labels" if labels == "true" else "teacher’s labels"
    return f"{carried}, {said}; {images:,} images{unused}, {student}{copied}"


def _pair(records: Sequence[Record]) -> str:
    """ACC / ASR / RA; of several seeds the mean, lowest and highest."""
    keys = ("acc", "asr", "ra")
    return " / ".join(spread((float(r["result"][key]) for r in records), "{:.1f}".format) for key in keys)


def _cell(records: Sequence[Record], floor: Sequence[Record]) -> tuple[str, str]:
    """What stands in the table, over the seeds that scratch has too, and the verdict; nothing where it was not run."""
    if not records:
        return "–", ""
    scratch = {record["config"]["seed"]: float(record["result"]["asr"]) for record in floor}
    paired = [record for record in records if record["config"]["seed"] in scratch]
    if not paired:
        return _pair(records), "open, without scratch"
    strength = mean(float(record["result"]["asr"]) for record in paired)
    excess = mean(float(record["result"]["asr"]) - scratch[record["config"]["seed"]] for record in paired)
    assert strength is not None
    assert excess is not None
    return f"{_pair(paired)}, {excess:+.1f}", verdict(bool(transferable(strength, excess)), len(paired))
