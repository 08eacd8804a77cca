"""KDIGA's tables: accuracy left under attack beside the slopes' controls, and what backdoored teachers hand on."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

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
PLAINLY, PLAINLY_ZERO = f"KDIGA{BESIDE}", f"KDIGA, zero{BESIDE}"
OWN = {**dict(zip(FORMS, ZEROS, strict=True)), PLAINLY: PLAINLY_ZERO}  # at the same weight
CONTROLS = {**dict.fromkeys(FORMS, ZEROS), PLAINLY: (PLAINLY_ZERO,)}
LEAST = 2.0  # points above a control, below which what the control lacks adds nothing
FLOOR = 5.0  # percent under attack: where both are below, neither resists
GONE = 0.05  # of the first epoch's slopes, with an accuracy below the best: the method card's collapse
CONSTANT = 30.0  # percent of ACC, below which a student hardly looks at the image
COSTLY = 5.0  # points of ACC below KD, from which on a student's ASR says nothing
SMALLER = 2 / 255
PENALTY = "gradient penalty"
FURTHER = {
    SHUFFLED: "not this image's slopes",
    PLAINLY: "not a robust teacher's slopes",
}  # beside the zeros, of KDIGA alone
ORDER = (GIVEN, PLAIN, "CE", "KD", "PGD-AT", NO_SLOPES, "KDIGA", "KDIGA, zero", SHUFFLED)
STUDENTS = (
    *("row", "ACC %", "left under attack %", "PGD-20 at 2/255 %", "radius × 255", "cosine on training images"),
    *("cosine on test images", "‖g_S‖ there", "‖g_S‖ kept %", "halvings", "tests failed", "minutes"),
)
SLOPES = (
    *("row", "beside", "gap", "ACC against that zero", "gap to own zero", "images that only it / only the other keeps"),
    *("gap, PGD-20 at 2/255", "gap to shuffled", "gap to plain teacher"),
)
BACKDOOR = ("row", "ACC %", "ASR %", "excess", "carried over", "ASR above KD", "ASR above zero")
NAMES = (
    "KDIGA: slopes of a softened cross-entropy, the method card's proposal and the default here; paper's slopes: those of the "
    "plain one, as published, at a weight in our units. IGDM, signs: our cheap form; attack: nearer the published one. "
    "KD: temperature 4, alpha 0.9; KDIGA, weight 0: the terms that KDIGA has beside the slopes. The robust teacher saw 25,000 images, "
    "its students and PGD-AT 9,000 of them. Gaps: paired over seeds, with a 95 % interval (Student's t), to the most "
    "robust zero of any weight among those that share most of the row's seeds and did not collapse; ACC beside it, since a stronger "
    f"penalty may be paid for with it. Under {LEAST:g} points of such a gap a row is a {PENALTY}; KDIGA is held against shuffled slopes, and "
    f"against a plain teacher's where that has its seeds, in the same way. Collapsed: slopes below {GONE:.0%} of the first epoch's and an "
    f"accuracy below its best on training images, or an ACC below {CONSTANT:g} %. ‖g_S‖ kept: in the last epoch of the first's, on training "
    "images, at the row's own temperature; on test images both slopes are softened alike. Halvings: of the weight, by the method's "
    "own guard against collapse."
)


def tables(records: Sequence[Record]) -> str:
    """Mean [lowest to highest] over seeds; gaps and excesses over the seeds that both have."""
    found: dict[str, Rows] = {}
    for record in records:
        config = record["config"]
        part = ROBUST if config["part"] == "robust" else config["teacher"]
        found.setdefault(part, {}).setdefault(_name(config), {})[config["seed"]] = record["result"]
    robust = _finished(found.get(ROBUST, {}))
    parts = [_robust(robust), _slopes(robust), NAMES] if robust else []
    parts += [_diverged(found.pop(ROBUST, {}))]
    for teacher, rows in sorted(found.items()):
        parts += [_backdoor(teacher, _finished(rows)), _diverged(rows)]
    return "\n\n".join([*filter(None, parts), provenance(records)])


def _name(config: Record) -> str:
    plain = config["part"] == "robust" and config["teacher"] == NATURAL
    return PLAIN if plain and config["row"] == GIVEN else config["row"] + (BESIDE if plain else "")


def _finished(rows: Rows) -> Rows:
    """Without the seeds that diverged, which have no figures."""
    found = {name: {seed: one for seed, one in row.items() if "diverged" not in one} for name, row in rows.items()}
    return {name: row for name, row in found.items() if row}


def _diverged(rows: Rows) -> str:
    counts = {name: sum("diverged" in one for one in rows[name].values()) for name in sorted(rows, key=_place)}
    said = [f"{text.markdown(name)} ({count} of {len(rows[name])} seeds)" for name, count in counts.items() if count]
    return f"**Diverged**, and counted nowhere: {'; '.join(said)}." if said else ""


def _robust(rows: Rows) -> str:
    table = next(_every(rows))["robustness"]
    title = (
        f"**Students under attack**: {table['robust']['total']:,} test images, tier {table['tier']}, "
        f"largest change {255 * table['bound']:g}/255"
    )
    return "\n".join([title, "", *head(STUDENTS), *(_student(name, rows) for name in sorted(rows, key=_place))])


def _student(name: str, rows: Rows) -> str:
    results = list(rows[name].values())
    diaries = [one["slopes"] for one in results if one.get("slopes")]
    unseen = [one["unseen_slopes"] for one in results if one.get("unseen_slopes")]
    halvings = [one["halvings"] for one in results if one.get("halvings") is not None]
    timed = [one["seconds"] / 60 for one in results if one["seconds"] is not None]
    return line(
        [
            called(name, rows),
            spread(one["acc"] for one in results),
            spread(one["robust"] for one in results),
            spread(_at(one) for one in results),
            spread((_radius(one) for one in results), "{:.2f}".format),
            _known(diary[-1]["cosine"] for diary in diaries),
            *(_known(one[key] for one in unseen) for key in ("cosine", "student")),
            _known((100 * diary[-1]["student"] / diary[0]["student"] for diary in diaries), "{:.0f}".format),
            _known(halvings, "{:g}".format),
            text.markdown(", ".join(_failed(results))) or "none",
            _known(timed, "{:.1f}".format),
        ]
    )


def _known(figures: Iterable[float], show: Callable[[float], str] = "{:.2f}".format) -> str:
    """Of a figure that a row may not have at all."""
    found = list(figures)
    return spread(found, show) if found else "–"


def _slopes(rows: Rows) -> str:
    """What the teacher's slopes add; empty without a form of KDIGA that has its control."""
    lines = []
    for name in filter(rows.__contains__, CONTROLS):
        zero = _zero(name, rows)
        if zero is None:
            continue
        kept = [_kept(rows[one], set(rows[name]) & set(rows[zero])) for one in (name, zero)]
        alone = [sum((a & ~b).bit_count() for a, b in zip(*pair, strict=True)) for pair in (kept, kept[::-1])]
        smaller = paired(_smaller(rows[name]), _smaller(rows[zero]))
        lines.append(
            line(
                [
                    called(name, rows),
                    text.markdown(zero),
                    str(_gap(name, zero, rows)),
                    str(paired(values(rows[name]), values(rows[zero]))),
                    _shown(_gap(name, OWN[name], rows)),
                    f"{alone[0]} / {alone[1]}",
                    _shown(smaller),
                    *(_shown(_gap(name, other, rows)) if name == "KDIGA" else "–" for other in FURTHER),
                ]
            )
        )
    return "\n".join(["**What the teacher's slopes add under attack**", "", *head(SLOPES), *lines]) if lines else ""


def _shown(gap: Difference | None) -> str:
    return text.NOT_MEASURED if gap is None else str(gap)


class Held(NamedTuple):
    """A row beside one control; word: what the row is where it is not above it. doubts: why that is not settled."""

    word: str
    gap: Difference
    doubts: list[str]


def called(name: str, rows: Rows) -> str:
    """A row's name: KDIGA is a gradient penalty where a control without the teacher's slopes is as robust.

    Beside it why that is not settled, if it is not. A form without a control may not be called by its name alone.
    """
    shown = text.markdown(name) + _collapsed(name, rows)
    if name not in CONTROLS:
        return shown
    held = _held(name, rows)
    if not held:
        return f"{shown} (no control)"
    below = [one for one in held if one.gap.mean < LEAST]
    counted = [one for one in below if not one.doubts] or below or held  # one control that is settled settles it
    doubts = [doubt for one in counted for doubt in one.doubts]
    if below:
        shown = f"**{', '.join(one.word for one in counted)}** ({shown})"
    elif name == "KDIGA" and FURTHER[SHUFFLED] not in {one.word for one in held}:
        doubts.append("not held against shuffled slopes")
    if doubts:
        return f"{shown}, open: {', '.join(dict.fromkeys(doubts))}"
    return shown + beside(min(one.gap.seeds for one in counted))


def _held(name: str, rows: Rows) -> list[Held]:
    """Against the best zero, and KDIGA against its further controls; a plain teacher's row needs all its seeds to count."""
    zero = _zero(name, rows)
    words = {} if zero is None else {zero: PENALTY}
    if words and name == "KDIGA":
        words |= {control: word for control, word in FURTHER.items() if control in rows}
        if not set(rows[name]) <= set(rows.get(PLAINLY, {})):
            words.pop(PLAINLY, None)
    found = ((control, word, _gap(name, control, rows)) for control, word in words.items())
    return [Held(word, gap, _doubts(name, control, gap, rows)) for control, word, gap in found if gap is not None]


def _doubts(name: str, control: str, gap: Difference, rows: Rows) -> list[str]:
    """Why a gap settles nothing."""
    both = [rows[name], rows[control]]
    few = f"{gap.seeds} seed{'s' * (gap.seeds != 1)}"
    return [
        *([few] if gap.half is None else [f"the interval holds {LEAST:g}"] if gap.holds(LEAST) else []),
        *(["a test for masked gradients failed"] if any(_failed(one.values()) for one in both) else []),
        *([f"both below {FLOOR:g} %"] if all(_robustness(one) < FLOOR for one in both) else []),
    ]


def _zero(name: str, rows: Rows) -> str | None:
    """The most robust control without the teacher's slopes, over the seeds of the row, of those that share most of them.

    One that collapsed in every seed is none: a constant answer is right on one image in ten under any attack.
    """
    zeros = [zero for zero in CONTROLS[name] if zero in rows and not all(map(_gone, rows[zero].values()))]
    found = {zero: gap for zero in zeros if (gap := _gap(name, zero, rows)) is not None}
    most = max((gap.seeds for gap in found.values()), default=0)
    return min((zero for zero in found if found[zero].seeds == most), key=lambda zero: found[zero].mean, default=None)


def _collapsed(name: str, rows: Rows) -> str:
    """Whether the penalty of the slopes ate students of KDIGA, and how many of them."""
    gone = [_gone(one) for one in rows[name].values()] if name.startswith("KDIGA") else []
    if not any(gone):
        return ""
    return ", **collapsed**" if all(gone) else f", {sum(gone)} of {len(gone)} **collapsed**"


def _gone(result: Record) -> bool:
    diary = result.get("slopes") or []
    short = len(diary) > 1 and diary[-1]["student"] < GONE * diary[0]["student"]
    return result["acc"] < CONSTANT or (short and diary[-1]["right"] < max(one["right"] for one in diary))


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
    if not rows:
        return ""
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
