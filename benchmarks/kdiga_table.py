"""KDIGA's tables: accuracy left under attack beside the controls of the teacher's slopes, and what backdoored teachers hand on."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.main_job_table import head, line, mean, provenance, spread
from benchmarks.paired import Difference, paired, values
from edgekd.report import text
from edgekd.report.transferability import beside, transferable

Record = dict[str, Any]
Rows = dict[str, dict[int, Record]]  # row -> seed -> result
GIVEN = "teacher"  # the row that trains no student
ROBUST, NATURAL = "pgd-at resnet14", "plain resnet14"
PLAIN = "plain teacher"  # itself, and behind the names of its students
BESIDE = f", {PLAIN}"
NO_SLOPES, SHUFFLED = "KDIGA, weight 0", "KDIGA, shuffled"
FORMS = ("KDIGA", "KDIGA, weight 0.3", "KDIGA, weight 3", "KDIGA, paper's slopes")
ZEROS = ("KDIGA, zero", "KDIGA, zero, weight 0.3", "KDIGA, zero, weight 3", "KDIGA, paper's slopes, zero")
CONTROLS = {**dict.fromkeys(FORMS, ZEROS), f"KDIGA{BESIDE}": (f"KDIGA, zero{BESIDE}",)}
LEAST = 2.0  # points above the control with zeroed slopes, below which the teacher's slopes add nothing
FLOOR = 5.0  # percent under attack: where both are below, neither resists
COLLAPSE = 10.0  # points of ACC below KDIGA without slopes
COSTLY = 5.0  # points of ACC below KD, from which on a student's ASR says nothing
SMALLER = 2 / 255
PENALTY = "gradient penalty"
ORDER = (GIVEN, PLAIN, "CE", "KD", "PGD-AT", NO_SLOPES, "KDIGA", "KDIGA, zero", SHUFFLED)
STUDENTS = ("row", "ACC %", "left under attack %", "at 2/255 %", "radius × 255", "cosine on training images", "‖g_S‖", "halvings", "tests failed", "minutes")  # fmt: skip
SLOPES = ("row", "beside", "gap", "images that only it / only the other keeps", "gap at 2/255", "gap to shuffled")
BACKDOOR = ("row", "ACC %", "ASR %", "excess", "carried over", "ASR above KD", "ASR above zero")
NAMES = (
    "KDIGA: slopes of a softened cross-entropy, the method card's proposal and the default here; paper's slopes: those of the "
    "plain one, as published, at a weight in our units. IGDM, signs: our cheap form; attack: nearer the published one. "
    "KD: temperature 4, alpha 0.9; KDIGA, weight 0: the terms that KDIGA has beside the slopes. The robust teacher saw 25,000 images, "
    "its students and PGD-AT 9,000 of them. Gaps: paired over seeds, with a 95 % interval (Student's t), to the most "
    f"robust zero of any weight that did not collapse; under {LEAST:g} points, a {PENALTY}. Collapsed: an ACC more than "
    f"{COLLAPSE:g} points below KDIGA, weight 0. Halvings: of the weight, by the method's own guard against that."
)


def tables(records: Sequence[Record]) -> str:
    """Mean [lowest to highest] over seeds; gaps and excesses over the seeds that both have."""
    robust: Rows = {}
    backdoor: dict[str, Rows] = {}
    for record in records:
        config = record["config"]
        plain = config["part"] == "robust" and config["teacher"] == NATURAL
        rows = robust if config["part"] == "robust" else backdoor.setdefault(config["teacher"], {})
        name = config["row"] + (BESIDE if plain else "")
        rows.setdefault(PLAIN if name == GIVEN + BESIDE else name, {})[config["seed"]] = record["result"]
    parts = [_robust(robust), _slopes(robust), NAMES] if robust else []
    parts += [_backdoor(teacher, rows) for teacher, rows in sorted(backdoor.items())]
    return "\n\n".join([*filter(None, parts), provenance(records)])


def _robust(rows: Rows) -> str:
    table = next(_every(rows))["robustness"]
    title = (
        f"**Students under attack**: {table['robust']['total']:,} test images, tier {table['tier']}, "
        f"largest change {255 * table['bound']:g}/255"
    )
    return "\n".join([title, "", *head(STUDENTS), *(_student(name, rows) for name in sorted(rows, key=_place))])


def _student(name: str, rows: Rows) -> str:
    results = list(rows[name].values())
    slopes = [one["slopes"][0] for one in results if one.get("slopes")]
    halvings = [one["halvings"] for one in results if one.get("halvings") is not None]
    timed = [one["seconds"] / 60 for one in results if one["seconds"] is not None]
    return line(
        [
            called(name, rows),
            spread(one["acc"] for one in results),
            spread(one["robust"] for one in results),
            spread(_at(one) for one in results),
            spread((_radius(one) for one in results), "{:.2f}".format),
            *(spread(one[key] for one in slopes) if slopes else "–" for key in ("cosine", "student")),
            spread(halvings, "{:g}".format) if halvings else "–",
            text.markdown(", ".join(_failed(results))) or "none",
            spread(timed, "{:.1f}".format) if timed else "–",
        ]
    )


def _slopes(rows: Rows) -> str:
    """What the teacher's slopes add; empty without a form of KDIGA that has its control."""
    lines = []
    for name in filter(rows.__contains__, CONTROLS):
        zero = _zero(name, rows)
        gap = None if zero is None else _gap(name, zero, rows)
        if zero is None or gap is None:
            continue
        smaller = paired(_smaller(rows[name]), _smaller(rows[zero]))
        shuffled = _gap(name, SHUFFLED, rows) if name == "KDIGA" else None
        kept = [_kept(rows[one], set(rows[name]) & set(rows[zero])) for one in (name, zero)]
        alone = [sum((a & ~b).bit_count() for a, b in zip(*pair, strict=True)) for pair in (kept, kept[::-1])]
        lines.append(
            line(
                [
                    called(name, rows),
                    text.markdown(zero),
                    str(gap),
                    f"{alone[0]} / {alone[1]}",
                    text.NOT_MEASURED if smaller is None else str(smaller),
                    "–" if shuffled is None else str(shuffled),
                ]
            )
        )
    return "\n".join(["**What the teacher's slopes add under attack**", "", *head(SLOPES), *lines]) if lines else ""


def called(name: str, rows: Rows) -> str:
    """A row's name: KDIGA is a gradient penalty where a control without the teacher's slopes is as robust.

    Beside it why that is not settled, if it is not. A form without a control may not be called by its name alone.
    """
    shown = text.markdown(name) + (", **collapsed**" if _collapsed(name, rows) else "")
    if name not in CONTROLS:
        return shown
    zero = _zero(name, rows)
    gap = None if zero is None else _gap(name, zero, rows)
    if zero is None or gap is None:
        return f"{shown} (no control)"
    doubts = _doubts(name, zero, gap, rows)
    if gap.mean < LEAST:
        shown = f"**{PENALTY}** ({shown})"
    return f"{shown}, open: {', '.join(doubts)}" if doubts else shown + beside(gap.seeds)


def _doubts(name: str, zero: str, gap: Difference, rows: Rows) -> list[str]:
    """Why a gap settles nothing."""
    both = [rows[name], rows[zero]]
    few = f"{gap.seeds} seed{'s' * (gap.seeds != 1)}"
    return [
        *([few] if gap.half is None else [f"the interval holds {LEAST:g}"] if gap.holds(LEAST) else []),
        *(["a test for masked gradients failed"] if any(_failed(one.values()) for one in both) else []),
        *([f"both below {FLOOR:g} %"] if all(_robustness(one) < FLOOR for one in both) else []),
    ]


def _zero(name: str, rows: Rows) -> str | None:
    """The most robust control without the teacher's slopes that did not collapse."""
    found = [zero for zero in CONTROLS[name] if zero in rows and not _collapsed(zero, rows)]
    return max(found, key=lambda zero: _robustness(rows[zero]), default=None)


def _collapsed(name: str, rows: Rows) -> bool:
    """Whether the penalty of the slopes ate a student of KDIGA."""
    if not name.startswith("KDIGA") or BESIDE in name:
        return False
    lost = paired(values(rows.get(NO_SLOPES, {})), values(rows[name]))
    return lost is not None and lost.mean > COLLAPSE


def _gap(name: str, other: str, rows: Rows) -> Difference | None:
    return paired(values(rows[name], "robust"), values(rows.get(other, {}), "robust"))


def _robustness(row: dict[int, Record]) -> float:
    return statistics.fmean(one["robust"] for one in row.values())


def _failed(results: Iterable[Record]) -> list[str]:
    return sorted({each["check"] for one in results for each in one["robustness"]["checks"] if each["passed"] is False})


def _kept(row: dict[int, Record], seeds: Iterable[int]) -> list[int]:
    """A bit per attacked image that survives, by seed."""
    return [int(row[seed]["survives"], 16) for seed in sorted(seeds)]


def _smaller(row: dict[int, Record]) -> dict[int, float]:
    return {seed: left for seed, one in row.items() if (left := _at(one)) is not None}


def _at(result: Record, bound: float = SMALLER) -> float | None:
    """Percent left by PGD-20 within a smaller bound of the curve."""
    for point in result["robustness"]["curve"]:
        if abs(point["bound"] - bound) < 1e-6:
            return 100 * float(point["left"]["hits"]) / float(point["left"]["total"])
    return None


def _radius(result: Record) -> float | None:
    radius = result["robustness"]["radius"]
    return None if radius is None else 255 * float(radius)


def _backdoor(teacher: str, rows: Rows) -> str:
    return "\n".join(
        [
            f"**{text.markdown(teacher)}** (ASR {next(_every(rows))['teacher_asr']:.1f} %), students of clean images alone",
            "",
            *head(BACKDOOR),
            *(_handed_on(name, rows) for name in sorted(rows, key=_place)),
        ]
    )


def _handed_on(name: str, rows: Rows) -> str:
    results, floor = rows[name], rows.get("CE", {})
    excess = [one["asr"] - floor[seed]["asr"] for seed, one in results.items() if seed in floor]
    carried = transferable(mean(one["asr"] for one in results.values()), mean(excess) if excess else None)
    verdict = "open, without CE" if carried is None else ("**yes**" if carried else "no") + beside(len(excess))
    lost = paired(values(rows.get("KD", {})), values(results))
    void = lost is not None and lost.mean > COSTLY
    if lost is not None and void:
        verdict = f"void: ACC {lost.mean:.1f} below KD"
    others = ("KD", "KDIGA, zero") if name.startswith("KDIGA") else ("KD",) if name not in ("CE", "KD") else ()
    return line(
        [
            text.markdown(name),
            spread(one["acc"] for one in results.values()),
            spread(one["asr"] for one in results.values()),
            spread(excess, "{:+.2f}".format),
            "–" if name == "CE" else verdict,
            *(
                _raised(results, rows.get(other, {}), void) if other in others and other != name else "–"
                for other in ("KD", "KDIGA, zero")
            ),
        ]
    )


def _raised(row: dict[int, Record], other: dict[int, Record], void: bool) -> str:
    """Points of ASR above another row, and whether that is more than seeds do."""
    gap = paired(values(row, "asr"), values(other, "asr"))
    if gap is None:
        return text.NOT_MEASURED
    return f"{gap}, raised" if gap.mean > 0 and not gap.holds(0) and not void else str(gap)


def _every(rows: Rows) -> Iterator[Any]:
    return (one for row in rows.values() for one in row.values())


def _place(name: str) -> tuple[bool, int, str]:
    return (PLAIN in name, ORDER.index(name) if name in ORDER else len(ORDER), name)
