"""RobustKD, RobustKD+ and the repairs as tables: one per teacher and scenario, every row beside its controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, mean, provenance, spread
from edgekd.report import text
from edgekd.report.transferability import beside, transferable, verdict

Record = dict[str, Any]
Rows = dict[str, dict[int, Record]]  # row -> seed -> result
BASES = {"kd": "Hinton KD", "overhaul": "overhaul KD", "kd and overhaul": "kd and overhaul"}
FIRST = (
    "scratch",
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
LONGER = ", twice as long"
MOST_EXCESS, WORST_EXCESS, MOST_LOSS, MOST_LOSS_CLEAN, MOST_SHIFT = 5.0, 15.0, 2.0, 1.0, 2.0  # points
COLUMNS = ("row", "seeds", "ACC %", "over scratch", "to RobustKD+", "ASR %", "excess", "RA %", "INT8 ACC %", "INT8 ASR %", "INT8 excess", "INT8 RA %", "minutes")  # fmt: skip


def tables(records: Sequence[Record]) -> str:
    """Mean [lowest to highest] over seeds; differences are between rows of the same seed, excess above its FP32 scratch."""
    found: dict[tuple[int, str, float, str], Rows] = {}
    for record in records:
        config = record["config"]
        key = (config["images"], config["teacher"], config["rate"], config.get("labels", "true"))
        found.setdefault(key, {}).setdefault(config["row"], {})[config["seed"]] = record["result"]
    parts = [_part(*key, found[key]) for key in sorted(found)]
    return "\n\n".join([*parts, *_whole([rows for key, rows in found.items() if key[1] != CLEAN]), provenance(records)])


def _part(images: int, teacher: str, rate: float, labels: str, rows: Rows) -> str:
    scenario = f"{images:,} images, {100 * rate:g} % of them triggered" if rate else f"{images:,} clean images"
    said = ", labels of the teacher at hand (scratch: true ones)" if labels == "teacher" else ""
    result = next(iter(next(iter(rows.values())).values()))
    seen = f" ({SEEN[teacher]})" if teacher in SEEN else ""
    lines = [
        f"**{text.markdown(teacher)}{seen}, {scenario}{said}** (teacher {_two(result['teacher'])})",
        "",
        *head(COLUMNS),
        *(_line(name, rows) for name in sorted(rows, key=_place)),
        "",
        *(f"- {name}: {_verdict(rows, kind)}" for kind, name in BASES.items() if kind in rows),
    ]
    missed = misses(rows, teacher == CLEAN)
    if missed is not None:
        bars = "all bars met" if not missed else "**" + ", ".join(missed) + "**"
        lines.append(f"- RobustKD+: {bars}{beside(len(_compared(rows)))}")
        lines += [f"- More ACC than RobustKD+ at an excess of at most {MOST_EXCESS:g}: {each}" for each in better(rows)]
    return "\n".join(lines)


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
        if kind == "fp32":
            cells += [spread(_above(rows, every.get(of, {}), kind, "acc"), _signed) for of in ("scratch", OURS)]
        cells += [spread(figures["asr"]), spread(_above(rows, scratch, kind, "asr"), _signed), spread(figures["ra"])]
    cells.append(spread([row["seconds"] / 60 for row in rows.values()], "{:.1f}".format))
    return line(cells)


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _above(rows: dict[int, Record], others: dict[int, Record], kind: str, key: str) -> list[float]:
    """Points above the other row of the same seed, in FP32: the floor is one for all."""
    return [row[kind][key] - others[seed]["fp32"][key] for seed, row in rows.items() if seed in others]


def _carries(rows: Rows, kind: str) -> tuple[bool | None, int]:
    """Whether plain distillation carries the backdoor over, and at how many seeds that was seen."""
    scratch = rows.get("scratch", {})
    shared = {seed: result for seed, result in rows.get(kind, {}).items() if seed in scratch}
    asr = mean(result["fp32"]["asr"] for result in shared.values())
    return transferable(asr, mean(_above(shared, scratch, "fp32", "asr"))), len(shared)


def _verdict(rows: Rows, kind: str) -> str:
    carries, seeds = _carries(rows, kind)
    return "open, without scratch" if carries is None else verdict(carries, seeds)


def _compared(rows: Rows) -> list[int]:
    """Seeds at which ours, its base and scratch all stand."""
    return [seed for seed in rows.get(OURS, {}) if seed in rows.get(BASE, {}) and seed in rows.get("scratch", {})]


def misses(rows: Rows, clean: bool = False) -> list[str] | None:
    """What RobustKD+ falls short of where its base carries the backdoor over, and on a clean teacher; None: nothing is asked."""
    if OURS not in rows or not (clean or _carries(rows, BASE)[0]):
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


def better(rows: Rows) -> list[str]:
    """Rows without our parts that are as safe as is asked of ours and have more ACC at its seeds, with how much more."""
    found = []
    for name, others in rows.items():
        excess = [*_above(others, rows.get("scratch", {}), "fp32", "asr")]
        more = mean(_above(others, rows.get(OURS, {}), "fp32", "acc"))
        if name != OURS and not name.startswith(OURS) and name != "scratch" and excess and more is not None:
            if max(excess) <= WORST_EXCESS and (mean(excess) or 0.0) <= MOST_EXCESS and more > 0:
                seeds = len([seed for seed in others if seed in rows[OURS]])
                found.append(f"{text.markdown(name)}, by {more:.2f} points{beside(seeds)}")
    return found


def _whole(every: Sequence[Rows]) -> list[str]:
    """RobustKD+ over all cells in which its base carries the backdoor over; it wins where no other row is better in any."""
    cells = [rows for rows in every if _carries(rows, BASE)[0] and _compared(rows)]
    if not cells:
        return []
    excess = [value for rows in cells for value in _above(rows[OURS], rows["scratch"], "fp32", "asr")]
    loss = [-value for rows in cells for value in _above(rows[OURS], rows[BASE], "fp32", "acc")]
    beaten = sum(bool(better(rows)) for rows in cells)
    verdict_ = (
        "**it wins**" if not beaten else f"**it does not win**: in {beaten} another row is as safe and more accurate"
    )
    return [
        f"RobustKD+ where its base carries the backdoor over, {len(cells)} cell{'s' * (len(cells) != 1)}: excess ASR "
        f"{mean(excess):.2f} in the mean, {max(excess):.2f} at worst; ACC {mean(loss):.2f} below its base; {verdict_}."
    ]
