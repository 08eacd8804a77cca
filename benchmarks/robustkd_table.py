"""RobustKD, RobustKD+ and the repairs as tables: one per teacher and scenario, every row beside its controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, mean, provenance, spread
from edgekd.report import text
from edgekd.report.transferability import beside, transferable, verdict

Record = dict[str, Any]
Rows = dict[str, dict[int, Record]]  # row -> seed -> result
Key = tuple[int, str, float, str]  # images, teacher, share of triggered ones, whose labels
LABELS = "the teacher's labels alone"
BASES = {"kd": "Hinton KD", "overhaul": "overhaul KD", "kd and overhaul": "kd and overhaul"}
FIRST = (
    "scratch",
    LABELS,
    "kd",
    "overhaul",
    "kd and overhaul",
    "robustkd-plus",
    "agreement alone",
    "robustkd, logits",
    "robustkd, features",
)
CLEAN = "clean"  # the teacher that nobody attacked
SEEN = {"noise-blend": "the development attack", "leak": "seen in development", "adba": "leak's mechanism"}
OURS, BASE = "robustkd-plus", "kd and overhaul"  # the bars are held against what RobustKD+ is without its parts
OUR_PARTS = (OURS, "agreement", "both, ", " alone")  # in the names of rows that have any
LONGER = ", twice as long"
MOST_EXCESS, WORST_EXCESS, MOST_LOSS, MOST_LOSS_CLEAN, MOST_SHIFT = 5.0, 15.0, 2.0, 1.0, 2.0  # points
MORE, CLAIMED = 0.5, 3  # points of ACC by which another row is better; seeds from which on anything is claimed
DEVELOPMENT = "noise-blend"
SHOWN = {
    "scratch": "from scratch, no teacher",
    "kd": "Hinton KD",
    "overhaul": "overhaul KD",
    "kd and overhaul": "both at once",
    "robustkd, features": "RobustKD",
    "robustkd, as compress runs it": "RobustKD as `compress` runs it",
    "robustkd, logits": "RobustKD on outputs",
    "robustkd-plus": "RobustKD+, which is both with a defence",
}
COLUMNS = ("row", "seeds", "ACC %", "over scratch", "to RobustKD+", "ASR %", "excess", "RA %", "INT8 ACC %", "over INT8 scratch", "INT8 ASR %", "INT8 excess", "INT8 RA %", "minutes")  # fmt: skip
TEACHERS = ("row", "seeds", "teacher ACC %", "teacher ASR %", "what was done")


def tables(records: Sequence[Record]) -> str:
    """Mean [lowest to highest] over seeds; differences are between rows of the same seed, excess above its FP32 scratch.

    Scenarios of a few clean or triggered images, then those of the teacher's labels, then all images; what RobustKD+ comes to.
    """
    found = _found(records)
    few = min(found)[0]
    judged = [
        rows
        for key, rows in found.items()
        if key[1] not in (CLEAN, DEVELOPMENT) and key[0] == few and _judged(key[3], rows)
    ]
    clean = [rows for key, rows in found.items() if key[1] == CLEAN and key[0] == few]
    parts = [_part(*key, rows) for key, rows in found.items()]
    return "\n\n".join([*parts, *_whole(judged, clean), provenance(records)])


def summary(records: Sequence[Record]) -> str:
    """Of the usual rows alone: ACC and ASR of the INT8 file that ships, a column per scenario."""
    found = _found(records)
    scenarios = [key for key in found if key[0] == min(found)[0] and key[1] != DEVELOPMENT and not checked(key[1])]
    lines = head(["INT8 ACC / ASR %", *(_scenario(*key[1:]) for key in scenarios)])
    teachers = (next(iter(next(iter(found[key].values())).values()))["teacher"] for key in scenarios)
    lines.append(line(["the teacher, FP32", *map(_two, teachers)]))
    for row, name in SHOWN.items():
        lines.append(line([name, *(_shipped(found[key].get(row, {})) for key in scenarios)]))
    return "\n".join([*lines, "", provenance(records)])


def checked(teacher: str) -> bool:
    """Whether a teacher is a third party's, there to check the repairs on."""
    return teacher.endswith(".pth")


def _shipped(results: dict[int, Record]) -> str:
    if not results:
        return text.NOT_MEASURED
    return _two({key: mean(one["int8"][key] for one in results.values()) or 0.0 for key in ("acc", "asr")}) + beside(len(results))  # fmt: skip


def _scenario(teacher: str, rate: float, labels: str) -> str:
    images = f"{100 * rate:g} % triggered" if rate else "clean images"
    whose = "" if not rate else ", its labels" if labels == "teacher" else ", true labels"
    return f"{_called(teacher)}, {images}{whose}"


def _called(teacher: str) -> str:
    return "a clean teacher" if teacher == CLEAN else text.markdown(teacher)


def _found(records: Sequence[Record]) -> dict[Key, Rows]:
    """Rows by scenario: true labels first, all images last."""
    found: dict[Key, Rows] = {}
    for record in records:
        config = record["config"]
        key = (config["images"], config["teacher"], config["rate"], config.get("labels", "true"))
        found.setdefault(key, {}).setdefault(config["row"], {})[config["seed"]] = record["result"]
    return {key: found[key] for key in sorted(found, key=lambda key: (key[0], key[3] == "teacher", *key[1:3]))}


def _part(images: int, teacher: str, rate: float, labels: str, rows: Rows) -> str:
    scenario = f"{images:,} images, {100 * rate:g} % of them triggered" if rate else f"{images:,} clean images"
    said = ", all under the teacher's labels (scratch: true ones)" if labels == "teacher" else ""
    result = next(iter(next(iter(rows.values())).values()))
    seen = f" ({SEEN[teacher]})" if teacher in SEEN else ""
    lines = [
        f"**{_called(teacher)}{seen}, {scenario}{said}** (teacher {_two(result['teacher'])})",
        "",
        *head(COLUMNS),
        *(_line(name, rows) for name in sorted(rows, key=_place)),
        "",
        *(f"- {name}: {_verdict(rows, kind)}" for kind, name in BASES.items() if kind in rows),
    ]
    if _carries(rows, LABELS)[0]:
        lines.append("- the labels hand it on by themselves: no defence of the distillation is judged here")
    missed = misses(rows, teacher == CLEAN) if _judged(labels, rows) else None
    if missed is not None:
        bars = "all bars met" if not missed else "**" + ", ".join(missed) + "**"
        lines.append(f"- RobustKD+: {bars}{beside(len(_compared(rows)))}")
        at = f"ACC than RobustKD+ at an excess of at most {MOST_EXCESS:g}"
        lines += [f"- More {at}: {each}" for each in better(rows)]
        lines += [f"- To look at, more {at}: {each}" for each in better(rows, decided=False)]
    return "\n".join([*lines, *_teachers(rows)])


def _teachers(rows: Rows) -> list[str]:
    """What repairs and RobustKD's first stage made of the teacher; nothing where no row touches it."""
    lines = []
    for name in sorted(rows, key=_place):
        results = list(rows[name].values())
        repaired = [one["repaired"] for one in results if "repaired" in one]
        if said := _done(results):
            figures = [spread(each[key] for each in repaired) if repaired else "–" for key in ("acc", "asr")]
            lines.append(line([text.markdown(name), str(len(results)), *figures, said]))
    return ["", *head(TEACHERS), *lines] if lines else []


def _done(results: Sequence[Record]) -> str:
    """In words, of all seeds."""
    repairs = [one.get("repair", {}).get("method", {}) for one in results]
    detox = [one["method"]["detox"] for one in results if "detox" in one.get("method", {})]
    if detox:
        steps = {f"{one['steps']:,}" for one in detox}
        ratios = [f"{mean(each):.2f}" for each in zip(*(one["variance_ratio"] for one in detox), strict=True)]
        lost = [100 * (one["acc_raw"] - one["acc_detox"]) for one in detox]
        back = sum(one["restored"] for one in detox)
        said = f"{' / '.join(sorted(steps))} steps, {spread(lost)} points of validation ACC lost, variance at the sites × {', '.join(ratios)}"  # fmt: skip
        return said + (f", taken back to the last good state in {back}" if back else "")
    pruned = [one for one in repairs if "pruned" in one]
    if pruned:
        return f"{' / '.join(str(one['pruned']) for one in pruned)} of {pruned[0]['channels']} channels pruned"
    if any("gates" in one for one in repairs):
        return f"scales and shifts of the norms, gates {mean(one['gates'] for one in repairs):.2f} in the mean"
    return "all weights trained" if any("repaired" in one for one in results) else ""


def _place(row: str) -> tuple[int, str]:
    """Controls and our own rows first, the others by name."""
    return (FIRST.index(row) if row in FIRST else len(FIRST), row)


def _two(figures: dict[str, float]) -> str:
    return f"{figures['acc']:.1f} / {figures['asr']:.1f}"


def _line(name: str, every: Rows) -> str:
    rows, scratch = every[name], every.get("scratch", {})
    cells = [text.markdown(name), str(len(rows))]
    for kind in ("fp32", "int8"):
        figures = {key: [row[kind][key] for row in rows.values()] for key in ("acc", "asr", "ra")}
        cells.append(spread(figures["acc"]))
        cells.append(spread(_above(rows, scratch, kind, "acc", kind), _signed))
        if kind == "fp32":
            cells.append(spread(_above(rows, every.get(OURS, {}), kind, "acc"), _signed))
        cells += [spread(figures["asr"]), spread(_above(rows, scratch, kind, "asr"), _signed), spread(figures["ra"])]
    cells.append(spread([row["seconds"] / 60 for row in rows.values()], "{:.1f}".format))
    return line(cells)


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _above(rows: dict[int, Record], others: dict[int, Record], kind: str, key: str, like: str = "fp32") -> list[float]:
    """Points above the other row of the same seed, by default in FP32: the floor of ASR is one for all."""
    return [row[kind][key] - others[seed][like][key] for seed, row in rows.items() if seed in others]


def _carries(rows: Rows, kind: str) -> tuple[bool | None, int]:
    """Whether plain distillation carries the backdoor over, and at how many seeds that was seen."""
    scratch = rows.get("scratch", {})
    shared = {seed: result for seed, result in rows.get(kind, {}).items() if seed in scratch}
    asr = mean(result["fp32"]["asr"] for result in shared.values())
    return transferable(asr, mean(_above(shared, scratch, "fp32", "asr"))), len(shared)


def _judged(labels: str, rows: Rows) -> bool:
    """Not before it is known what the teacher's labels hand on by themselves, where all have them."""
    return labels == "true" or LABELS in rows


def _asked(rows: Rows) -> bool:
    """Whether any plain distillation carries the backdoor over and the labels do not: there a defence of it is judged."""
    return not _carries(rows, LABELS)[0] and any(_carries(rows, kind)[0] for kind in BASES)


def _verdict(rows: Rows, kind: str) -> str:
    carries, seeds = _carries(rows, kind)
    return "open, without scratch" if carries is None else verdict(carries, seeds)


def _compared(rows: Rows) -> list[int]:
    """Seeds at which ours, its base and scratch all stand."""
    return [seed for seed in rows.get(OURS, {}) if seed in rows.get(BASE, {}) and seed in rows.get("scratch", {})]


def misses(rows: Rows, clean: bool = False) -> list[str] | None:
    """What RobustKD+ falls short of where a plain distillation carries the backdoor over, and on a clean teacher; None: nothing is asked."""
    if OURS not in rows or not (clean or _asked(rows)):
        return None
    seeds = _compared(rows)
    if not seeds:
        return ["not measured beside its base and scratch"]
    ours = {seed: rows[OURS][seed] for seed in seeds}
    excess = {kind: _above(ours, rows["scratch"], kind, "asr") for kind in ("fp32", "int8")}
    most = MOST_LOSS_CLEAN if clean else MOST_LOSS
    found = {
        f"mean excess ASR above {MOST_EXCESS:g}": (mean(excess["fp32"]) or 0.0) > MOST_EXCESS,
        f"worst excess ASR above {WORST_EXCESS:g}": max(excess["fp32"]) > WORST_EXCESS,
        f"mean excess ASR of INT8 above {MOST_EXCESS:g}": (mean(excess["int8"]) or 0.0) > MOST_EXCESS,
        f"worst excess ASR of INT8 above {WORST_EXCESS:g}": max(excess["int8"]) > WORST_EXCESS,
        "ACC below scratch": (mean(_above(ours, rows["scratch"], "fp32", "acc")) or 0.0) < 0,
        f"INT8 ASR more than {MOST_SHIFT:g} from FP32": max(
            abs(each["int8"]["asr"] - each["fp32"]["asr"]) for each in ours.values()
        )
        > MOST_SHIFT,
    }
    for base in (BASE, BASE + LONGER):
        above = _above(ours, rows.get(base, {}), "fp32", "acc")
        found[f"ACC more than {most:g} below {base}"] = bool(above) and -(mean(above) or 0.0) > most
    return [name for name, missed in found.items() if missed]


def better(rows: Rows, decided: bool = True) -> list[str]:
    """Rows without our parts that are as safe as is asked of ours and have more ACC, with how much more.

    decided: at three seeds at least, and by half a point; else those of which that is not known yet.
    """
    found = []
    for name, others in rows.items():
        excess = {kind: _above(others, rows.get("scratch", {}), kind, "asr") for kind in ("fp32", "int8")}
        safe = all(
            each and max(each) <= WORST_EXCESS and (mean(each) or 0.0) <= MOST_EXCESS for each in excess.values()
        )
        more = _above(others, rows.get(OURS, {}), "fp32", "acc")
        if name.startswith("scratch") or any(part in name for part in OUR_PARTS) or not safe or not more:
            continue
        gained = sum(more) / len(more)
        if gained > 0 and (len(more) >= CLAIMED and gained >= MORE) is decided:
            found.append(f"{text.markdown(name)}, by {gained:.2f} points{beside(len(more))}")
    return found


def _whole(every: Sequence[Rows], clean: Sequence[Rows]) -> list[str]:
    """RobustKD+ over all cells in which a plain distillation carries the backdoor over, but those of its development.

    clean: those of a teacher that nobody attacked, where it has a bar too.
    """
    cells = [rows for rows in every if _asked(rows) and _compared(rows)]
    if not cells:
        return []
    excess = [value for rows in cells for value in _above(rows[OURS], rows["scratch"], "fp32", "asr")]
    loss = [-value for rows in cells for value in _above(rows[OURS], rows[BASE], "fp32", "acc")]
    return [
        f"RobustKD+ where plain distillation carries the backdoor over, {len(cells)} cell{'s' * (len(cells) != 1)} without that of "
        f"its development: excess ASR {mean(excess):.2f} in the mean, {max(excess):.2f} at worst; ACC {mean(loss):.2f} below "
        f"its base; {_wins(cells, clean)}."
    ]


def _wins(cells: Sequence[Rows], clean: Sequence[Rows]) -> str:
    few = sum(len(_compared(rows)) < CLAIMED for rows in cells)
    whole = [rows for rows in cells if len(_compared(rows)) >= CLAIMED]
    clean = [rows for rows in clean if len(_compared(rows)) >= CLAIMED]
    missed, beaten = (sum(bool(found(rows)) for rows in whole) for found in (misses, better))
    looked = sum(bool(misses(rows)) for rows in cells if rows not in whole)
    against = [
        *([f"it misses bars in {missed}"] if missed else []),
        *([f"in {beaten} another row is as safe and more accurate"] if beaten else []),
        *(["it misses its bar on a clean teacher"] if any(misses(rows, clean=True) for rows in clean) else []),
    ]
    rest = f"fewer than {CLAIMED} seeds in {few}" + (f", bars missed there in {looked}" if looked else "")
    if against:
        return f"**it does not win**: {', and '.join(against)}" + (f" ({rest})" if few else "")
    return f"open: {rest}" if few else "**it wins**"
