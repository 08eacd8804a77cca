"""Distillation without data as tables: one per source and teacher, every row beside the plain source, and the bars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, mean, provenance, spread
from edgekd.report import text
from edgekd.report.transferability import beside

Record = dict[str, Any]
Rows = dict[str, dict[int, Record]]  # row -> seed -> result
PLAIN, LONGER, SV, SR, ABD, WITH_DATA = "plain", "plain, longer", "+SV", "+SR", "+ABD", "KD on clean data"
PUBLISHED = "+SV, published mask"
CLEAN = "clean"
ORDER = (PLAIN, LONGER, SV, PUBLISHED, SR, ABD, WITH_DATA)
GOES_ON = {LONGER: PLAIN, SR: PLAIN, ABD: SV}  # row -> whose last student it starts from
COUNTS = {"patches": 70.0, "zskt": 50.0}  # percent of ACC of the plain source from which on a teacher's rows count
CARRIES, ABOVE, LEFT, MOST_LOSS, MOST_LOSS_CLEAN = 50.0, 30.0, 15.0, 6.0, 2.0  # percent of ASR; points
RAISED, MOST_SHIFT = 1.0, 2.0  # points of ASR: by ABD on a clean teacher, of INT8 above FP32
TRIGGERS = 2  # at least so many must be carried over by the plain source
COLUMNS = ("row", "seeds", "ACC %", "ASR %", "floor %", "RA %", "INT8 ACC %", "INT8 ASR %", "agreement %", "vaccine", "one class %", "left out %", "spared %", "retrospection", "steps", "minutes")  # fmt: skip


def tables(records: Sequence[Record]) -> str:
    """Mean [lowest to highest] over seeds. Agreement: with the teacher, on patches that nothing was trained on.

    Floor: what the plain student of the clean teacher, from the same source, makes of the trigger. One class: the largest
    share of the images for which the accepted shuffle names one and the same; left out: suspicious images that were not
    learned from; spared: suspicious ones that were.
    """
    found: dict[tuple[Any, ...], Rows] = {}
    with_data: dict[str, Rows] = {}
    for record in records:
        config, seed = record["config"], record["config"]["seed"]
        if config["row"] == WITH_DATA:  # of its own length, beside every source of its teacher
            name = f"{WITH_DATA}, {config['epochs']} epochs"
            with_data.setdefault(config["teacher"], {}).setdefault(name, {})[seed] = record["result"]
            continue
        key = (config["source"], config["student"], config["epochs"], config["options"].get("images", 0), config["teacher"])  # fmt: skip
        found.setdefault(key, {}).setdefault(config["row"], {})[seed] = record["result"]
    parts: list[str] = []
    carried: dict[tuple[Any, ...], list[bool | None]] = {}
    for key in sorted(found):
        *length, teacher = key
        floor = _floor(found.get((*length, CLEAN), {}), teacher)
        parts.append(_part(key, {**found[key], **with_data.get(teacher, {})}, floor))
        if teacher != CLEAN and key[0] in COUNTS and PLAIN in found[key]:
            carried.setdefault(tuple(length), []).append(carries(key[0], found[key], floor))
    verdicts = [_carried(length, known) for length, known in carried.items()]
    return "\n\n".join([*parts, *(["\n".join(verdicts)] if verdicts else []), provenance(records)])


def _floor(clean: Rows, teacher: str) -> float | None:
    return mean(result["floors"][teacher] for result in clean.get(PLAIN, {}).values() if teacher in result.get("floors", {}))  # fmt: skip


def _carried(length: tuple[Any, ...], known: list[bool | None]) -> str:
    """How many triggers the plain source carries over at one length, marked where enough were measured and too few are."""
    source, _, epochs, images = length
    few = len(known) >= TRIGGERS and None not in known and sum(map(bool, known)) < TRIGGERS
    mark = "**" * few
    said = f"the plain source carries {known.count(True)} of {len(known)} triggers over, {TRIGGERS} wanted"
    open_ = f"; of {known.count(None)} the floor is not measured" if None in known else ""
    return f"- {source}, {_length(epochs, images)}: {mark}{said}{mark}{open_}"


def _length(epochs: int, images: int) -> str:
    return f"{epochs} epochs" + (f" of {images:,} images" if images else "")


def _part(key: tuple[Any, ...], rows: Rows, floor: float | None) -> str:
    source, student, epochs, images, teacher = key
    result = next(iter(next(iter(rows.values())).values()))
    figures = result["teacher"]
    lines = [
        f"**{source}, {_short(teacher)}, {student}, {_length(epochs, images)}** (teacher {figures['acc']:.1f} / {figures['asr']:.1f})",
        "",
        *head(COLUMNS),
        *(_line(row, rows, floor) for row in sorted(rows, key=_place)),
    ]
    said = [
        verdict(source, teacher, rows, floor),
        *_differences(rows) * (teacher == CLEAN),
        _default(rows),
        _rescaled(rows),
    ]
    return "\n".join([*lines, *(f"\n- {one}" for one in said if one)])


def _short(teacher: str) -> str:
    return text.markdown(teacher.removesuffix(".pth").removesuffix(".tar"))


def _place(row: str) -> tuple[int, int, str]:
    """In the order of ``ORDER``; of KD on clean data the shorter first."""
    return ORDER.index(row if row in ORDER else WITH_DATA), len(row), row


def _rescaled(rows: Rows) -> str:
    """Which rows had their INT8 scales set on other images than their source's."""
    found = [row for row in rows if any(one.get("scales", "source") != "source" for one in rows[row].values())]
    return f"INT8 scales on patches, as the source's images are nearly noise: {', '.join(found)}" if found else ""


def _default(rows: Rows) -> str:
    """What the product's own choice would have been: +SV where a shuffle was accepted, +SR elsewhere."""
    accepted: dict[int, bool] = {}
    for name in (SV, ABD):
        for seed, result in rows.get(name, {}).items():
            found = result["method"].get("source", {}).get("vaccine")
            if found is not None:
                accepted[seed] = found["accepted"]
    chosen = Counter(SV if each else SR for each in accepted.values())
    said = " and ".join(f"{row} at {chosen[row]} of {len(accepted)} seeds" for row in (SV, SR) if chosen[row])
    return f"the product's default (`abd.retrospection=auto`) is {said}" if said else ""


def _differences(rows: Rows) -> list[str]:
    """By how much ABD changes the ASR of a clean teacher's student under every trigger, signed."""
    lines = []
    for base in (PLAIN, LONGER):
        raised = _raised(rows, base)
        if raised:
            each = ", ".join(f"{_short(trigger)} {points:+.2f}" for trigger, points in sorted(raised.items()))
            lines.append(f"ASR of {ABD} less that of {base}, points: {each}{beside(len(_gains(rows, base)))}")
    return lines


def _called(name: str, rows: Rows) -> str:
    """A row's name, marked where it started from another student than the row it is held against."""
    base = rows.get(GOES_ON.get(name, ""), {})
    starts = {seed: one["method"].get("retrospection", {}).get("start") for seed, one in rows[name].items()}
    others = [seed for seed, start in starts.items() if start and seed in base and start != base[seed]["student_sha256"]]  # fmt: skip
    return f"{name} (**from another student than {GOES_ON[name]}**)" if others else name


def _line(name: str, every: Rows, floor: float | None) -> str:
    rows = every[name]
    figures = {kind: {key: [row[kind][key] for row in rows.values()] for key in ("acc", "asr", "ra")} for kind in ("fp32", "int8")}  # fmt: skip
    cells = [
        _called(name, every),
        str(len(rows)),
        spread(figures["fp32"]["acc"]),
        spread(figures["fp32"]["asr"]),
        "–" if floor is None else f"{floor:.2f}",
        spread(figures["fp32"]["ra"]),
        spread(figures["int8"]["acc"]),
        spread(figures["int8"]["asr"]),
        spread(row["agreement"] for row in rows.values()),
        *_vaccine(rows),
        _kept(rows),
        " or ".join(map(str, sorted({row["steps"] for row in rows.values()}))),
        spread((row["seconds"] / 60 for row in rows.values()), "{:.1f}".format),
    ]
    return line(cells)


def _kept(rows: dict[int, Record]) -> str:
    """At how many seeds the retrospection was kept; where agreement fell too far the student before it counts."""
    known = [row["method"]["retrospection"]["kept"] for row in rows.values() if "retrospection" in row["method"]]
    return f"{sum(known)} of {len(known)} kept" if known else "–"


def _vaccine(rows: dict[int, Record]) -> tuple[str, ...]:
    """At how many seeds a shuffled teacher was accepted, and why others were not; what the accepted ones name and take away."""
    sources = [row["method"].get("source", {}) for row in rows.values()]
    sought = [source["vaccine"] for source in sources if "vaccine" in source]
    if not sought:
        return ("–",) * 4
    refused = Counter(why for one in sought for trial in one["trials"] for why in trial["refused"])
    why = ", ".join(f"{count} {name}" for name, count in sorted(refused.items()))
    named = [100 * one["trials"][one["trial"]]["named"] for one in sought if one["accepted"]]
    shares = [
        [100 * source[kind] / source["images"] for source in sources if kind in source]
        for kind in ("suspicious", "spared")
    ]
    said = f"{len(named)} of {len(sought)} accepted" + (f" (refused: {why})" if why else "")
    return (said, *(spread(values, "{:.1f}".format) if values else "–" for values in (named, *shares)))


def _mean(rows: Rows, row: str, key: str) -> float | None:
    return mean(result["fp32"][key] for result in rows.get(row, {}).values())


def counts(source: str, rows: Rows) -> bool | None:
    """Whether the plain source taught enough for its ASR to mean something; None where no bar is set."""
    acc = _mean(rows, PLAIN, "acc")
    return None if acc is None or source not in COUNTS else acc >= COUNTS[source]


def carries(source: str, rows: Rows, floor: float | None) -> bool | None:
    """Whether the plain source counts and has 50 % of ASR, 30 points above the floor; None where only that is not known."""
    asr = _mean(rows, PLAIN, "asr")
    if not counts(source, rows) or asr is None or asr < CARRIES:
        return False
    return None if floor is None else asr - floor >= ABOVE


def verdict(source: str, teacher: str, rows: Rows, floor: float | None = None) -> str:
    """What follows for this source and teacher, over the seeds at which both rows of a comparison stand."""
    taught = counts(source, rows)
    if taught is None:
        return ""
    if not taught:
        return f"does not count: ACC of the plain source below {COUNTS[source]:g}"
    carried = teacher == CLEAN or carries(source, rows, floor)
    if carried is None:
        return (
            f"whether the plain source carries the backdoor over is open: floor not measured{beside(len(rows[PLAIN]))}"
        )
    if not carried:
        return f"the plain source does not carry the backdoor over{beside(len(rows[PLAIN]))}"
    seeds = len(_gains(rows, PLAIN))
    if not seeds:
        return "ABD: not measured"
    missed, longer = _missed(rows, teacher == CLEAN), len(_gains(rows, LONGER))
    said = f"**{', '.join(missed)}**" if missed else "all bars met" if longer else "no measured bar missed"
    said += "" if longer else f"; against {LONGER}: not measured"
    return f"ABD: {said}{beside(min(seeds, longer) if longer else seeds)}"


def _missed(rows: Rows, clean: bool) -> list[str]:
    """The bars that ABD misses, of those that were measured."""
    most = MOST_LOSS_CLEAN if clean else MOST_LOSS
    ours = [result for seed, result in rows[ABD].items() if seed in rows[PLAIN]]
    found = {
        f"ACC more than {most:g} below {base}": (mean(_gains(rows, base)) or 0.0) < -most for base in (PLAIN, LONGER)
    }
    if clean:
        raised = _raised(rows, PLAIN)
        worst = max(raised, key=lambda trigger: raised[trigger])
        found[f"ASR raised by more than {RAISED:g} under {_short(worst)}"] = raised[worst] > RAISED
    else:
        found[f"ASR above {LEFT:g}"] = (mean(result["fp32"]["asr"] for result in ours) or 0.0) > LEFT
    shift = max(result["int8"]["asr"] - result["fp32"]["asr"] for result in ours)
    found[f"INT8 ASR more than {MOST_SHIFT:g} above FP32"] = shift > MOST_SHIFT
    return [name for name, is_missed in found.items() if is_missed]


def _gains(rows: Rows, base: str) -> list[float]:
    """Points of ACC of ABD above another row, by the seeds that both have."""
    others = rows.get(base, {})
    return [ours["fp32"]["acc"] - others[seed]["fp32"]["acc"] for seed, ours in rows.get(ABD, {}).items() if seed in others]  # fmt: skip


def _raised(rows: Rows, base: str) -> dict[str, float]:
    """Of a clean teacher, trigger -> points of ASR of ABD above another row in the mean over seeds."""
    others = {seed: _by_trigger(result) for seed, result in rows.get(base, {}).items()}
    gains: dict[str, list[float]] = {}
    for seed, result in rows.get(ABD, {}).items():
        for trigger, asr in _by_trigger(result).items():
            if trigger in others.get(seed, {}):
                gains.setdefault(trigger, []).append(asr - others[seed][trigger])
    return {trigger: sum(found) / len(found) for trigger, found in gains.items()}


def _by_trigger(result: Record) -> dict[str, float]:
    """ASR under every trigger that was tried, the one of the table's own column among them."""
    found: dict[str, float] = result.get("floors") or {"its trigger": result["fp32"]["asr"]}
    return found
