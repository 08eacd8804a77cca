"""The transfer test as a table: a teacher and a scenario per row, ASR and excess over scratch for every kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, provenance
from edgekd.report.transferability import beside, transferable

Record = dict[str, Any]
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
        ["teacher", "teacher ACC / ASR %", "transfer images", "scratch ACC / ASR %"]
        + [f"{name}: ACC / ASR %, excess" for name in KINDS.values()]
        + ["transferable"]
    )
    for key in sorted(found, key=str):
        kinds = found[key]
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
                    _verdict({name: how for name, (_, how) in zip(KINDS.values(), cells, strict=True)}),
                ]
            )
        )
    return "\n".join([*lines, "", provenance(records)])


def _row(config: Record) -> tuple[Any, ...]:
    return tuple(config[key] for key in ("teacher", "rate", "labels", "start", "student", "images", "epochs"))


def _floor_key(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Scratch knows no teacher's labels and no teacher's layers, but the same images and the same student."""
    teacher, rate, _, _, student, images, epochs = key
    return teacher, rate, student, images, epochs


def _scenario(key: tuple[Any, ...]) -> str:
    _, rate, labels, start, student, images, _ = key
    carried = f"{100 * rate:g} % triggered" if rate else "clean"
    copied = "" if start == "fresh" else f", {start} of the teacher"
    return f"{images:,} {carried}, {'true labels' if labels == 'true' else 'teacher’s labels'}, {student}{copied}"


def _mean(records: Sequence[Record], key: str) -> float:
    return sum(float(record["result"][key]) for record in records) / len(records)


def _pair(records: Sequence[Record]) -> str:
    return f"{_mean(records, 'acc'):.1f} / {_mean(records, 'asr'):.1f}"


def _cell(records: Sequence[Record], floor: Sequence[Record]) -> tuple[str, str]:
    """What stands in the table, and: yes | no | open (not run, or without scratch), with the number of seeds if few."""
    if not records:
        return "–", "open"
    if not floor:
        return _pair(records), "open"
    excess = _mean(records, "asr") - _mean(floor, "asr")
    how = "yes" if transferable(_mean(records, "asr"), excess) else "no"
    return f"{_pair(records)}, {excess:+.1f}", how + beside(min(len(records), len(floor)))


def _verdict(kinds: dict[str, str]) -> str:
    yes = [f"{name}{how.removeprefix('yes')}" for name, how in kinds.items() if how.startswith("yes")]
    ran = [how for how in kinds.values() if how != "open"]
    if yes:
        return "**TRANSFERABLE**: " + ", ".join(yes)
    return "not by " + ", ".join(name for name, how in kinds.items() if how != "open") if ran else "open"
