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
FIRST = ("scratch", "kd", "overhaul", "kd and overhaul", "robustkd-plus", "robustkd", "robustkd, logits")
CLEAN = "clean"  # the teacher that nobody attacked
OURS, BASE = "robustkd-plus", "kd and overhaul"  # the bars are held against what RobustKD+ is without its parts
MOST_EXCESS, WORST_EXCESS, MOST_LOSS, MOST_LOSS_CLEAN, MOST_SHIFT = 5.0, 15.0, 2.0, 1.0, 2.0  # points
COLUMNS = (
    "row",
    "ACC %",
    "over scratch",
    "ASR %",
    "excess",
    "RA %",
    "INT8 ACC %",
    "INT8 ASR %",
    "INT8 excess",
    "INT8 RA %",
    "minutes",
)


def tables(records: Sequence[Record]) -> str:
    """Mean [lowest to highest] over seeds; over scratch and excess: points above scratch of the same seed."""
    found: dict[tuple[int, str, float], Rows] = {}
    for record in records:
        config = record["config"]
        rows = found.setdefault((config["images"], config["teacher"], config["rate"]), {})
        rows.setdefault(config["row"], {})[config["seed"]] = record["result"]
    parts = [_part(*key, found[key]) for key in sorted(found)]
    return "\n\n".join([*parts, provenance(records)])


def _part(images: int, teacher: str, rate: float, rows: Rows) -> str:
    scenario = f"{images:,} images, {100 * rate:g} % of them triggered" if rate else f"{images:,} clean images"
    result = next(iter(next(iter(rows.values())).values()))
    lines = [
        f"**{text.markdown(teacher)}, {scenario}** (teacher {_two(result['teacher'])})",
        "",
        *head(COLUMNS),
        *(_line(name, rows[name], rows.get("scratch", {})) for name in sorted(rows, key=_place)),
        "",
        *(f"- {name}: {_verdict(rows, kind)}" for kind, name in BASES.items() if kind in rows),
    ]
    missed = misses(rows, teacher == CLEAN)
    if missed is not None:
        said = "all bars met" if not missed else "**" + ", ".join(missed) + "**"
        lines.append(f"- RobustKD+: {said}{beside(len(rows[OURS]))}")
    return "\n".join(lines)


def _place(row: str) -> tuple[int, str]:
    """Controls and our own rows first, the others by name."""
    return (FIRST.index(row) if row in FIRST else len(FIRST), row)


def _two(figures: dict[str, float]) -> str:
    return f"{figures['acc']:.1f} / {figures['asr']:.1f}"


def _line(name: str, rows: dict[int, Record], scratch: dict[int, Record]) -> str:
    cells = [text.markdown(name)]
    for kind in ("fp32", "int8"):
        figures = {key: [row[kind][key] for row in rows.values()] for key in ("acc", "asr", "ra")}
        cells.append(spread(figures["acc"]))
        if kind == "fp32":
            cells.append(spread(_above(rows, scratch, kind, "acc"), "{:+.2f}".format))
        cells += [
            spread(figures["asr"]),
            spread(_above(rows, scratch, kind, "asr"), "{:+.2f}".format),
            spread(figures["ra"]),
        ]
    cells.append(spread([row["seconds"] / 60 for row in rows.values()], "{:.1f}".format))
    return line(cells)


def _above(rows: dict[int, Record], scratch: dict[int, Record], kind: str, key: str) -> list[float]:
    """Points above the scratch student of the same seed, in FP32: the floor is one for all."""
    return [row[kind][key] - scratch[seed]["fp32"][key] for seed, row in rows.items() if seed in scratch]


def _carries(rows: Rows, kind: str) -> tuple[bool | None, int]:
    """Whether plain distillation carries the backdoor over, and at how many seeds that was seen."""
    scratch = rows.get("scratch", {})
    shared = {seed: result for seed, result in rows.get(kind, {}).items() if seed in scratch}
    asr = mean(result["fp32"]["asr"] for result in shared.values())
    return transferable(asr, mean(_above(shared, scratch, "fp32", "asr"))), len(shared)


def _verdict(rows: Rows, kind: str) -> str:
    carries, seeds = _carries(rows, kind)
    if carries is None:
        return "open, without scratch"
    return verdict(carries, seeds)


def misses(rows: Rows, clean: bool = False) -> list[str] | None:
    """What RobustKD+ falls short of where its base carries the backdoor over, and on a clean teacher; None: nothing is asked.

    Seeds at which ours, its base and scratch all stand are compared.
    """
    if OURS not in rows or not (clean or _carries(rows, BASE)[0]):
        return None
    base, scratch = rows.get(BASE, {}), rows.get("scratch", {})
    seeds = [seed for seed in rows[OURS] if seed in base and seed in scratch]
    if not seeds:
        return ["not measured beside its base and scratch"]
    ours = [rows[OURS][seed] for seed in seeds]
    loss = mean(base[seed]["fp32"]["acc"] - rows[OURS][seed]["fp32"]["acc"] for seed in seeds) or 0.0
    gain = mean(rows[OURS][seed]["fp32"]["acc"] - scratch[seed]["fp32"]["acc"] for seed in seeds) or 0.0
    excess = [rows[OURS][seed]["fp32"]["asr"] - scratch[seed]["fp32"]["asr"] for seed in seeds]
    most = MOST_LOSS_CLEAN if clean else MOST_LOSS
    found = {
        f"mean excess ASR above {MOST_EXCESS:g}": sum(excess) / len(excess) > MOST_EXCESS,
        f"worst excess ASR above {WORST_EXCESS:g}": max(excess) > WORST_EXCESS,
        f"ACC more than {most:g} below {BASES[BASE]}": loss > most,
        "ACC below scratch": gain < 0,
        f"INT8 ASR more than {MOST_SHIFT:g} from FP32": max(
            abs(each["int8"]["asr"] - each["fp32"]["asr"]) for each in ours
        )
        > MOST_SHIFT,
    }
    return [name for name, missed in found.items() if missed]
