"""The transfer test as a table: a teacher and a scenario per row, ASR and excess over scratch for every kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, mean, provenance, spread
from edgekd.report.transferability import SEEDS, transferable, verdict

Record = dict[str, Any]
Key = tuple[Any, ...]
COPIED = {
    "first layers": "the teacher’s stem and first group copied",
    "frozen first layers": "the teacher’s stem and first two groups copied and frozen",
    "frozen body": "all but the teacher’s last layer copied and frozen",
}
KINDS = {"kd": "Hinton KD", "overhaul": "overhaul KD", "at": "attention transfer", "labels": "labels alone"}


# Of the overview: heading -> (rate, labels) of fresh students; both kinds of distillation stand under each.
SCREENED = {
    "clean images": (0.0, "true"),
    "2 % triggered, teacher’s labels": (0.02, "teacher"),
    "2 % triggered, true labels": (0.02, "true"),
}


def overview(records: Sequence[Record]) -> str:
    """Points of ASR above scratch by teacher, scenario and kind, the worst teacher first."""
    found, floors = _grouped(records)
    shown = {key: kinds for key, kinds in found.items() if key[3:6] == ("fresh", "resnet8", 10_000) and not key[-1]}
    size = next(iter(shown), (None,) * 8)[6]
    ordered = []
    for teacher in {key[0] for key in shown}:
        cells, worst = [], 0.0
        for rate, labels in SCREENED.values():
            key = (teacher, rate, labels, "fresh", "resnet8", 10_000, size, False)
            for kind in ("kd", "overhaul"):
                paired, strength, excess = _paired(shown.get(key, {}).get(kind, []), _floor(floors, key))
                if not paired:
                    cells.append("–")
                    continue
                worst = max(worst, excess)
                above = transferable(strength, excess)
                mark = "**" if above and len(paired) >= SEEDS else "_" if above else ""
                cells.append(f"{mark}{round(excess):+d}{mark}")
        if set(cells) != {"–"}:
            ordered.append((-worst, teacher, cells))
    names = [f"{scenario}: {kind}" for scenario in SCREENED for kind in ("Hinton KD", "overhaul KD")]
    lines = head(["teacher", *names])
    lines += [line([_name(teacher), *cells]) for _, teacher, cells in sorted(ordered)]
    about = (
        "ASR of ResNet-8 students of 10,000 images less that of scratch students, points. **Bold**: TRANSFERABLE (three seeds); "
        "_italic_: above the bar at one seed; plain: below it."
    )
    return "\n".join([*lines, "", about])


def tables(records: Sequence[Record]) -> str:
    """Rows by teacher and scenario; a kind that was not run is "–"."""
    found, floors = _grouped(records)
    lines = head(
        ["teacher", "teacher ACC / ASR %", "transfer images", "scratch ACC / ASR / RA %"]
        + [f"{name}: ACC / ASR / RA %, excess" for name in KINDS.values()]
        + ["verdict"]
    )
    for key in sorted(found, key=str):
        kinds = found[key]
        if not kinds.keys() & KINDS.keys():  # scratch alone, which other rows have asked for
            continue
        floor = _floor(floors, key)
        any_record = next(iter(kinds.values()))[0]["result"]
        cells = [_cell(kinds.get(kind, []), floor) for kind in KINDS]
        lines.append(
            line(
                [
                    _name(key[0]),
                    f"{any_record['teacher_acc']:.1f} / {any_record['teacher_asr']:.1f}",
                    _scenario(key),
                    _pair(floor) if floor else "–",
                    *(cell for cell, _ in cells),
                    "; ".join(f"{name}: {how}" for name, (_, how) in zip(KINDS.values(), cells, strict=True) if how),
                ]
            )
        )
    return "\n".join([*lines, "", provenance(records)])


def _grouped(records: Sequence[Record]) -> tuple[dict[Key, dict[str, list[Record]]], dict[Key, dict[int, Record]]]:
    """Row -> kind -> records; and the scratch students by what they share, one record a seed, whichever row asked for it."""
    found: dict[Key, dict[str, list[Record]]] = {}
    floors: dict[Key, dict[int, Record]] = {}
    for record in records:
        key, kind = _row(record["config"]), record["config"]["kind"]
        found.setdefault(key, {}).setdefault(kind, []).append(record)
        if kind == "scratch":
            floors.setdefault(_floor_key(key), {})[record["config"]["seed"]] = record
    return found, floors


def _floor(floors: dict[Key, dict[int, Record]], key: Key) -> list[Record]:
    return list(floors.get(_floor_key(key), {}).values())


def _name(teacher: str) -> str:
    return teacher.removesuffix(".pth").removesuffix(".tar").removesuffix(".pt")


def _row(config: Record) -> Key:
    keys = ("teacher", "rate", "labels", "start", "student", "images", "epochs")
    return *(config[key] for key in keys), bool(config.get("unseen"))


def _floor_key(key: Key) -> Key:
    """Scratch knows no teacher's labels and no teacher's layers, but the same images and the same student."""
    teacher, rate, _, _, *rest = key
    return teacher, rate, *rest


def _scenario(key: Key) -> str:
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
    paired, strength, excess = _paired(records, floor)
    if not paired:
        return _pair(records), "open, without scratch"
    return f"{_pair(paired)}, {excess:+.1f}", verdict(bool(transferable(strength, excess)), len(paired))


def _paired(records: Sequence[Record], floor: Sequence[Record]) -> tuple[list[Record], float, float]:
    """The records whose seed scratch has too, their mean ASR and its mean excess; zeros where there is none."""
    scratch = {record["config"]["seed"]: float(record["result"]["asr"]) for record in floor}
    paired = [record for record in records if record["config"]["seed"] in scratch]
    strength = mean(float(record["result"]["asr"]) for record in paired)
    excess = mean(float(record["result"]["asr"]) - scratch[record["config"]["seed"]] for record in paired)
    return paired, strength or 0.0, excess or 0.0
